"""Numbers of job options as JavaScript reads them."""

from __future__ import annotations

import pytest

from convolab_worker.bullmq.protocol.job_options import number


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (3, 3), (2.5, 2.5), (True, 1), (None, 0), ("3", 3), (" 3 ", 3), ("", 0), (" ", 0),
        ("0x1f", 31), ("0b11", 3), ("0o17", 15), ("1e2", 100), (".5", 0.5), ("5.", 5), ("-4", -4),
        ("Infinity", float("inf")), ([], 0), ([3], 3), (["3"], 3), ([None], 0), ([[2]], 2),
        ("x", None), ("3 apples", None), ("1_000", None), ("inf", None), ("nan", None),
        ("0x", None), ("-0x1", None), ([1, 2], None), ({}, None), (float("nan"), None),
        ([True], None), ("٣", None),
    ],
)  # fmt: skip
def test_a_number_is_what_javascript_makes_of_it(value: object, read: float | None) -> None:
    """Number(value), with None for NaN."""
    assert number(value) == read
