"""The data of a job that the command line enqueues."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from convolab_worker import Exponential, Fixed
from convolab_worker.cli.arguments.job_flags import read_backoff, read_data
from convolab_worker.errors import ConfigurationError


def test_data_comes_from_the_argument_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON is read from all three places."""
    file = tmp_path / "data.json"
    file.write_text('{"text": "日本"}', encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("[1, 2]"))

    assert read_data('{"a": 1.5}') == {"a": 1.5}
    assert read_data(f"@{file}") == {"text": "日本"}
    assert read_data("-") == [1, 2]


@pytest.mark.parametrize(
    ("text", "backoff"),
    [
        ("5s", 5.0),
        ("1.5", 1.5),
        ("fixed:5s", Fixed(5)),
        ("exponential:2s", Exponential(2)),
        ("exponential:2s:1m", Exponential(2, longest=60)),
        ("polite", "polite"),
    ],
)
def test_a_backoff_is_read_from_a_flag(text: str, backoff: object) -> None:
    """A time of its own is exact, a named policy has jitter, other text names a strategy."""
    assert read_backoff(text) == backoff


@pytest.mark.parametrize(
    "text", ["", "fixed", "fixed:", "fixed:5s:6s", "exponential:2s:1s", "5x", "polite:5s", ":"]
)
def test_a_backoff_that_can_not_be_is_refused(text: str) -> None:
    """A mistyped time is not a strategy's name."""
    with pytest.raises(ValueError, match="^5s, fixed:5s, "):
        read_backoff(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read: No such file or directory"),
        (b"\xff", "can't be read: "),
        (b"{", "expected a JSON value: Expecting property name"),
        (b"[" * 100_000, "expected a JSON value"),
    ],
)
def test_data_that_can_not_be_read_is_named(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    """The error names the file and what is wrong with it."""
    file = tmp_path / "data.json"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigurationError) as caught:
        read_data(f"@{file}")

    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
    assert "shell" not in str(caught.value)


def test_an_argument_that_is_no_json_is_told_how_a_shell_wants_it() -> None:
    with pytest.raises(
        ConfigurationError, match=r"""put JSON into single quotes: '{"item": "tea"}'"""
    ):
        read_data("{'item': 'tea'}")
