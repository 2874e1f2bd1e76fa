"""Writes whole log lines to a stream: those that come in a rush together, none late."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TextIO

_LATEST_SECONDS = 0.05  # how long a routine line may wait for others
_MOST_BYTES = 64 * 1024  # of lines that wait
_EXIT_PATIENCE_SECONDS = 0.2
_READER_PATIENCE_SECONDS = 1.0


class LogStream:
    """A structlog logger that writes lines to a stream, from any thread.

    A line after a pause is written at once, and so is a warning or worse, with what waits before
    it. Routine lines that follow each other within 50 ms are written together: two system calls
    for each job cost more than the rest of its log lines. Lines for a stream that is closed, or
    whose disk is full, are lost: logging never breaks the work that it reports.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._file = _descriptor(stream)
        self._gathers = self._file is not None and not stream.isatty()
        self._begin()

    def _begin(self) -> None:
        # A signal's handler may log while its own thread is in here.
        self._lock = threading.RLock()
        self._waiting: list[bytes] = []
        self._size = 0
        self._written_at = 0.0
        self._is_due = threading.Event()
        self._flusher: threading.Thread | None = None

    def gather(self, line: bytes) -> None:
        """Write a routine line, with those that follow it closely."""
        with self._lock:
            self._waiting.append(line)
            self._size += len(line)
            if not self._gathers or self._size > _MOST_BYTES:
                self._write_waiting()
            elif len(self._waiting) == 1:
                if time.monotonic() - self._written_at > _LATEST_SECONDS:
                    self._write_waiting()
                else:
                    self._have_flushed()

    def urge(self, line: bytes) -> None:
        """Write a line now, behind those that wait."""
        with self._lock:
            self._waiting.append(line)
            self._write_waiting()

    debug = info = msg = gather
    warning = warn = error = critical = fatal = exception = log = urge

    def flush(self) -> None:
        """Write what waits: the process ends. It gives up on a lock that nobody releases."""
        if self._lock.acquire(timeout=_EXIT_PATIENCE_SECONDS):
            try:
                self._write_waiting()
            finally:
                self._lock.release()

    def forget(self) -> None:
        """In a forked child: what waits is the parent's to write, and the thread is not here."""
        self._begin()

    def _have_flushed(self) -> None:
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_when_due, name="log", daemon=True)
            self._flusher.start()
        self._is_due.set()

    def _flush_when_due(self) -> None:
        never = threading.Event()
        while True:
            self._is_due.wait()
            self._is_due.clear()
            never.wait(_LATEST_SECONDS)
            with self._lock:
                self._write_waiting()

    def _write_waiting(self) -> None:
        lines, self._waiting, self._size = self._waiting, [], 0
        self._written_at = time.monotonic()
        if not lines:
            return
        text = b"".join(lines)
        try:
            if self._file is None:
                self._stream.write(text.decode())
                self._stream.flush()
            elif not self._stream.closed:
                _write_all(self._file, text)
        except (OSError, ValueError):  # a closed pipe, a full disk; a closed file
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


def use_stream(stream: TextIO) -> LogStream:
    """Make the process's log stream; one that was used before has written what it had."""
    global _current  # noqa: PLW0603 - a process has one log
    flush_log()
    _current = LogStream(stream)
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
