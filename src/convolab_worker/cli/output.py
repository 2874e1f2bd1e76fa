"""Results on standard output, remarks on standard error."""

from __future__ import annotations

import json
import os
import sys
import time
import unicodedata
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from convolab_worker.errors import ConvolabWorkerError
from convolab_worker.telemetry.log_stream import flush_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def result(text: str) -> None:
    """Write a result to standard output, with a line break.

    A reader that has closed the pipe (``| head``) is not an error: the command did its work.
    """
    flush_log()
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it exits, and would report the closed pipe.
        _discard_output()
    except OSError as error:
        _discard_output()
        msg = f"standard output can't be written: {error.strerror}"
        raise ConvolabWorkerError(msg) from error


def _discard_output() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def remark(text: str) -> None:
    """Write a remark to standard error, with a line break; ignore a stream that is closed."""
    flush_log()
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except OSError:
        return


def as_json(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON that standard output can encode; in one line without ``indent``."""
    text = json.dumps(value, ensure_ascii=False, default=str, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, default=str, indent=indent)
    return text


class Bar:
    """Shows the progress of long work on standard error, if that is a terminal."""

    _INTERVAL_SECONDS = 0.1
    _WIDTH = 30

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._drawn_at = float("-inf")
        self._visible = sys.stderr.isatty()

    def step(self, count: int = 1) -> None:
        """Add to what is done, and draw the bar if it is time."""
        self._done += count
        if self._visible and time.monotonic() - self._drawn_at >= self._INTERVAL_SECONDS:
            self._drawn_at = time.monotonic()
            self._draw()

    def _draw(self) -> None:
        total = max(self._total, self._done, 1)
        full = self._WIDTH * self._done // total
        line = f"{'#' * full}{'.' * (self._WIDTH - full)} {self._done:,} of {total:,}"
        self._write(f"\r{self._what} {line}\x1b[K")

    @staticmethod
    def _write(text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar; the command says in words what was done."""
        if self._visible and self._done:
            self._write("\r\x1b[K")


def table(rows: Sequence[Sequence[object]], *, right: bool = False) -> str:
    """Align rows in columns: whole numbers to the right, the rest to the left.

    With ``right``, all columns but the first are aligned to the right.
    """
    cells = [[_printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)]
    numeric = [
        (right and place > 0)
        or (len(rows) > 1 and all(isinstance(row[place], int) for row in rows[1:]))
        for place in range(len(widths))
    ]
    return "\n".join(
        "  ".join(
            _padded(cell, width, right=number)
            for cell, width, number in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    )


def _padded(cell: str, width: int, *, right: bool) -> str:
    padding = " " * (width - _columns(cell))
    return padding + cell if right else cell + padding


def _columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a Chinese or Japanese sign."""
    if text.isascii():
        return len(text)
    return sum(_columns_of(sign) for sign in text)


def _columns_of(sign: str) -> int:
    if unicodedata.combining(sign) or unicodedata.category(sign) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(sign) in {"W", "F"} else 1


def _printable(text: str) -> str:
    """Return a text without what a terminal obeys; a job's data may have anything in it."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign == "\n" or unicodedata.category(sign) != "Cc" else repr(sign)[1:-1]
        for sign in text
    )


def described(fields: Mapping[str, Any]) -> str:
    """Return fields below each other, without those that are None or an empty list."""
    rows = [
        [name, value if isinstance(value, str) else as_json(value)]
        for name, value in fields.items()
        if value is not None and value != []
    ]
    return table(rows)
