"""Results on standard output, remarks on standard error."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from convolab_worker.cli import streams
from convolab_worker.errors import ConvolabWorkerError
from convolab_worker.telemetry.log_stream import flush_log

if TYPE_CHECKING:
    from collections.abc import Sequence


_JOINER, _AS_EMOJI = "\u200d", "\ufe0f"
_SKIN_TONES = {chr(tone) for tone in range(0x1F3FB, 0x1F400)}


def result(text: str) -> None:
    """Write a result to standard output, with a line break.

    A reader that has closed the pipe (``| head``) is not an error: the command did its work.
    """
    flush_log()
    encoding = sys.stdout.encoding or "utf-8"
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        sys.stdout.write(f"{shown}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it exits, and would report the closed pipe.
        streams.discard(sys.stdout)
    except OSError as error:
        streams.discard(sys.stdout)
        msg = f"standard output can't be written: {error.strerror}"
        raise ConvolabWorkerError(msg) from error


def remark(text: str) -> None:
    """Write a remark to standard error, with a line break; ignore a stream that is closed.

    What jobs' names and reasons have in it does not reach the terminal as control characters.
    """
    flush_log()
    streams.tell(printable(text))


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


def fits(text: str) -> bool:
    """Whether standard output shows the text's lines whole: a terminal breaks long ones."""
    width = _terminal_width()
    return width is None or all(_columns(line) <= width for line in text.splitlines())


def _terminal_width() -> int | None:
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def shortened(line: str) -> str:
    """Return a line, cut where the terminal would break it; only a terminal cuts."""
    width = _terminal_width()
    if width is None or _columns(line) <= width:
        return line
    kept = line[:width]
    while _columns(kept) >= width:
        kept = kept[:-1]
    return f"{kept}…"


def table(rows: Sequence[Sequence[object]], *, right: bool = False) -> str:
    """Align rows in columns: whole numbers to the right, the rest to the left.

    With ``right``, all columns but the first are aligned to the right.
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
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
    """Return how many columns of a terminal a text takes: two for a Japanese sign or an emoji.

    The standard library's Unicode table has all but the rules by which signs join. Three rules for
    that are less than a dependency that every start of the command would load.
    """
    if text.isascii():
        return len(text)
    columns, previous, is_joined = 0, 0, False
    for sign in text:
        if sign == _JOINER:  # the next sign and the one before it are drawn as one
            is_joined = True
            continue
        width = _columns_of(sign)
        if is_joined or sign in _SKIN_TONES:
            width = 0
        elif sign == _AS_EMOJI and previous == 1:
            width = 1  # makes a sign of one column an emoji of two
        columns, previous, is_joined = columns + width, width, False
    return columns


def _columns_of(sign: str) -> int:
    import unicodedata

    if unicodedata.combining(sign) or unicodedata.category(sign) in {"Mn", "Me", "Cf"}:
        return 0
    if "\u1160" <= sign <= "\u11ff":  # the middle and end of a Korean syllable written in parts
        return 0
    return 2 if unicodedata.east_asian_width(sign) in {"W", "F"} else 1


def listed(names: Sequence[str], most: int) -> str:
    """Return the first names with commas between them, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def printable(text: str) -> str:
    """Return a text without terminal control characters, which a job's data may have."""
    if text.isprintable():
        return text
    import unicodedata

    return "".join(
        sign if sign == "\n" or unicodedata.category(sign) != "Cc" else repr(sign)[1:-1]
        for sign in text
    )
