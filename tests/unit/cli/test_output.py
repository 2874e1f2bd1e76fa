"""What commands print."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from convolab_worker.cli import output


def test_a_table_is_aligned_with_numbers_to_the_right() -> None:
    """Columns are as wide as their widest cell, and no line ends in a space."""
    text = output.table([["queue", "waiting", "note"], ["a", 5, "x"], ["longer", 12345678, ""]])

    assert text.splitlines() == [
        "queue    waiting  note",
        "a              5  x",
        "longer  12345678",
    ]


def test_json_is_readable_where_it_can_be_and_always_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Text is written as it is where the stream can encode it, escaped where not."""
    utf8 = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")

    monkeypatch.setattr(sys, "stdout", utf8)
    readable, lone = output.as_json("日本"), output.as_json("\ud800")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    escaped = output.as_json("日本")

    assert (readable, lone, escaped) == ('"日本"', '"\\ud800"', '"\\u65e5\\u672c"')
    assert json.loads(escaped) == "日本"


def test_a_reader_that_goes_away_is_no_error() -> None:
    """A closed pipe behind standard output leaves the exit code and standard error alone."""
    program = (
        "import sys; from convolab_worker.cli.output import result\n"
        "sys.stdin.read(); result('x' * 100_000); result('y'); sys.exit(0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None

    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(b"", timeout=20)

    assert process.returncode == 0
    assert errors == b""


def test_columns_are_aligned_by_what_a_terminal_shows() -> None:
    """A Japanese sign takes two columns, a combining accent none; no text moves the cursor."""
    text = output.table([["name", "id"], ["音声", 1], ["e\u0301e", 2], ["ab\x1b[2J\r", 3]])

    assert text.splitlines() == [
        "name         id",
        "音声          1",
        "e\u0301e            2",
        "ab\\x1b[2J\\r   3",
    ]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("é", 1), ("e\u0301", 1), ("音", 2), ("ｱ", 1), ("한", 2), ("\u1112\u1161\u11ab", 2),
        ("🎉", 2), ("❤", 1), ("❤\ufe0f", 2), ("👩\u200d🚀", 2), ("👍🏽", 2), ("🇯🇵", 2),
        ("1\ufe0f\u20e3", 2),
    ],
)  # fmt: skip
def test_an_emoji_is_as_wide_as_a_terminal_draws_it(text: str, columns: int) -> None:
    """Joined ones, skin tones, flags and signs that are made emoji; Korean written in parts."""
    rows = output.table([[text, "x"], ["aaaa", "y"]]).splitlines()

    assert rows[0] == text + " " * (4 - columns) + "  x"


def test_what_standard_output_can_not_encode_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latin-1, and a lone surrogate of some job's name even in UTF-8."""
    for encoding, text, written in (
        ("latin-1", "ä 日", b"\xe4 \\u65e5\n"),
        ("utf-8", "日 \ud800", "日 \\ud800\n".encode()),
    ):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))

        output.result(text)

        assert raw.getvalue() == written


def test_a_line_is_cut_where_a_terminal_would_break_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only on a terminal: what reads from a pipe gets all of it."""
    line = "1   音声がない"
    monkeypatch.setenv("COLUMNS", "10")

    piped = output.shortened(line)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    assert piped == line
    assert output.shortened(line) == "1   音声…"
    assert output.shortened("2   short") == "2   short"
    assert (output.fits(line), output.fits("2   short")) == (False, True)
