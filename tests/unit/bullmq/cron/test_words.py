"""Cron patterns in English."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from convolab_worker.bullmq.cron.field import InvalidPattern
from convolab_worker.bullmq.cron.words import in_words


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("* * * * *", "every minute"),
        ("*/5 * * * *", "every 5 minutes"),
        ("*/10 * * * * *", "every 10 seconds"),
        ("7 * * * *", "at minute 7 of every hour"),
        ("0 3 * * *", "at 03:00"),
        ("15,45 8 * * *", "at 08:15 and 08:45"),
        ("*/20 9-17 * * 1-5", "every 20 minutes from 09:00 to 17:59 on Monday to Friday"),
        ("0 */6 * * *", "at 00:00, 06:00, 12:00 and 18:00"),
        ("30 */2 * * *", "at minute 30 of every second hour from 00:00 on"),
        ("0 9 * * 0,6", "at 09:00 on Sunday and Saturday"),
        ("0 9 1,15 * *", "at 09:00 on day 1 and 15 of the month"),
        ("0 0 L * *", "at 00:00 on day last of the month"),
        ("0 9 * * 5L", "at 09:00 on the last Friday"),
        ("0 9 * * 1#2", "at 09:00 on the second Monday"),
        ("0 9 13 * 5", "at 09:00 on day 13 of the month, and on Friday"),
        ("0 9 1 1,7 *", "at 09:00 on day 1 of the month in January and July"),
        ("0 9 * 6-8 *", "at 09:00 in June to August"),
        ("@daily", "at 00:00"),
        ("30 15 12 * * *", "at 12:15:30"),
    ],
)
def test_a_pattern_is_told_in_words(pattern: str, words: str) -> None:
    assert in_words(pattern, "seed") == words


def test_what_node_refuses_has_no_words() -> None:
    with pytest.raises(InvalidPattern):
        in_words("61 * * * *", "seed")


@given(
    st.lists(
        st.sampled_from(["*", "1", "3-5", "*/7", "2,4", "L", "H", "1-3,7", "5L", "2#1"]),
        min_size=5,
        max_size=6,
    )
)
def test_every_pattern_that_can_be_read_has_words(fields: list[str]) -> None:
    try:
        words = in_words(" ".join(fields), "seed")
    except InvalidPattern:
        return
    assert words.strip() == words != ""
    assert "  " not in words
