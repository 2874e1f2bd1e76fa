"""Writes whole log lines to a stream: lines in a rush together, and none of them late."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LATEST_SECONDS = 0.05  # how long a routine line may wait for others
_MOST_LINES = 300  # that wait
_LONG_BYTES = 4096  # a line that waits for no other
_EXIT_PATIENCE_SECONDS = 0.2
_READER_PATIENCE_SECONDS = 1.0


class LogStream:
    """A structlog logger that writes lines to a stream, from any thread.

    A line after a pause is written at once, and so is a warning or worse, with what waits before
    it. Routine lines that follow each other within 50 ms are written together: two system calls
    for each job cost more than the rest of its log lines. Lines for a stream that is closed, or
    whose disk is full, are lost: logging never breaks the work that it reports.

    A routine line may be an object of which ``form`` makes the bytes when lines are written.
    """

    def __init__(self, stream: TextIO, form: Callable[[Iterable[Any]], bytes] = b"".join) -> None:
        self._stream = stream
        self._form = form
        self._file = _descriptor(stream)
        self._gathers = self._file is not None and not stream.isatty()
        self._begin()

    def _begin(self) -> None:
        # A signal's handler may log while its own thread is in here.
        self._lock = threading.RLock()
        self._waiting: deque[Any] = deque()
        self._written_at = 0.0
        # Whether the flusher will write what waits. Lines are added before this is read, and taken
        # after it is reset: so none stays behind, although adding a line takes no lock.
        self._will_flush = False
        self._is_due = threading.Event()
        self._flusher: threading.Thread | None = None

    def write_soon(self, line: Any) -> None:
        """Write a routine line, with those that follow it closely."""
        self._waiting.append(line)
        if not self._will_flush:
            self._write_or_wait()
        elif len(self._waiting) > _MOST_LINES or (type(line) is bytes and len(line) > _LONG_BYTES):
            self._write_waiting()

    def write_now(self, line: bytes) -> None:
        """Write a line now, after the waiting ones."""
        self._waiting.append(line)
        self._write_waiting()

    debug = info = msg = write_soon
    warning = warn = error = critical = fatal = exception = log = write_now

    def flush(self) -> None:
        """Write the waiting lines, since the process ends. Does not wait for ever for the lock."""
        if self._lock.acquire(timeout=_EXIT_PATIENCE_SECONDS):
            try:
                self._write_waiting()
            finally:
                self._lock.release()

    def forget(self) -> None:
        """In a forked child, start anew: the waiting lines and the thread are the parent's."""
        self._begin()

    def _write_or_wait(self) -> None:
        with self._lock:
            is_late = time.monotonic() - self._written_at > _LATEST_SECONDS
            if is_late or not self._gathers or not self._have_flushed():
                self._write_waiting()

    def _have_flushed(self) -> bool:
        if self._flusher is None:
            flusher = threading.Thread(target=self._flush_when_due, name="log", daemon=True)
            try:
                flusher.start()
            except RuntimeError:  # no thread can be started
                return False
            self._flusher = flusher
        self._will_flush = True
        self._is_due.set()
        return True

    def _flush_when_due(self) -> None:
        never = threading.Event()
        while True:
            self._is_due.wait()
            self._is_due.clear()
            never.wait(_LATEST_SECONDS)
            self._write_waiting()

    def _write_waiting(self) -> None:
        with self._lock:
            self._will_flush = False
            self._written_at = time.monotonic()
            if lines := self._take():
                self._write(lines)

    def _take(self) -> list[Any]:
        """Take lines one by one: a signal's handler that logs meanwhile takes the others."""
        lines = []
        with suppress(IndexError):
            while self._waiting:
                lines.append(self._waiting.popleft())
        return lines

    def _write(self, lines: list[Any]) -> None:
        try:
            text = b"".join(
                b"".join(run) if kind is bytes else self._form(run)
                for kind, run in groupby(lines, type)
            )
            if self._file is None:
                self._stream.write(text.decode())
                self._stream.flush()
            elif not self._stream.closed:
                _write_all(self._file, text)
        except Exception:  # noqa: BLE001 - a closed pipe, a full disk; whatever a stream raises
            return


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # a stream in memory, or one of a test
        return None


def _write_all(file: int, text: bytes) -> None:
    """Write past Python's own buffers, which keep what a full disk refused for the next line."""
    left = memoryview(text)
    while left:
        try:
            left = left[os.write(file, left) :]
        except BlockingIOError:  # a pipe that does not block and whose reader is behind
            _, is_writable, _ = select.select([], [file], [], _READER_PATIENCE_SECONDS)
            if not is_writable:
                raise


_current: LogStream | None = None


def use_stream(stream: TextIO, form: Callable[[Iterable[Any]], bytes]) -> LogStream:
    """Make the process's log stream, after an earlier one has written its waiting lines."""
    global _current  # noqa: PLW0603 - a process has one log
    flush_log()
    _current = LogStream(stream, form)
    return _current


def flush_log() -> None:
    """Write the log lines that wait, before a process ends without its ``atexit`` calls."""
    if _current is not None:
        _current.flush()


def _after_fork() -> None:
    if _current is not None:
        _current.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
