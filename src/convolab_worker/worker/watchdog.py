"""Notices a handler that blocks the event loop, and reports where slow code is."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from convolab_worker._logs import Log
from convolab_worker.telemetry.frames import application_place, places_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from types import FrameType

_log = Log()
_BLOCKED_SECONDS = 1.0
_DEEPEST = 30
# Attributes by which each kind of awaiting object names its frame, and what it awaits.
_KINDS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"))


class StackReports:
    """Keeps the last report of each kind, for ``stats``; may be written from any thread."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, Any]] = {}

    def keep(self, kind: str, **report: Any) -> None:
        self._last[kind] = {"at": time.time(), **report}

    def snapshot(self) -> dict[str, dict[str, Any] | None]:
        """The last report of a blocked loop, of a job past its time-out, of one abandoned."""
        return {kind: self._last.get(kind) for kind in ("blocked", "timed_out", "abandoned")}


def stack_of_thread(thread_id: int | None) -> traceback.StackSummary:
    """Where a thread stands, the outermost frame first; empty if it has ended."""
    frame = sys._current_frames().get(thread_id or 0)  # noqa: SLF001 - its documented use
    return stack_of_frame(frame)


def stack_of_frame(frame: FrameType | None) -> traceback.StackSummary:
    """The frame and those that called it, the outermost first, the innermost thirty."""
    frames = [] if frame is None else list(traceback.walk_stack(frame))
    return _summary(iter(frames[:_DEEPEST][::-1]))


def stack_of_coroutine(coroutine: object) -> traceback.StackSummary:
    """Where a coroutine waits, the outermost frame first; async generators can't be looked into."""
    return _summary(_awaited(coroutine))


def _awaited(waiting: Any) -> Iterator[tuple[FrameType, int]]:
    while waiting is not None:
        for frame_name, next_name in _KINDS:
            if hasattr(waiting, frame_name):
                frame, waiting = getattr(waiting, frame_name), getattr(waiting, next_name)
                if frame is not None:
                    yield frame, frame.f_lineno
                break
        else:
            return


def _summary(frames: Iterator[tuple[FrameType, int]]) -> traceback.StackSummary:
    return traceback.StackSummary.extract(frames, limit=_DEEPEST)


def below(stack: traceback.StackSummary, filename: str) -> traceback.StackSummary:
    """The frames below the first one of a file: the handler's part of a stack."""
    for place, frame in enumerate(stack):
        if frame.filename == filename:
            return traceback.StackSummary.from_list(list(stack[place + 1 :]))
    return stack


def where(stack: traceback.StackSummary) -> str | None:
    """The application's line in a stack, as FILE:LINE in FUNCTION."""
    found = application_place(places_of(stack))
    return None if found is None else str(found)


class Watchdog:
    """Watches the loop and the thread that it is made in; ``look`` is called from another thread.

    ``job_of`` names the job that a frame of the loop's thread belongs to, if there is one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        job_of: Callable[[FrameType], dict[str, Any] | None],
        stack_reports: StackReports,
    ) -> None:
        self._loop = loop
        self._job_of = job_of
        self._stack_reports = stack_reports
        self._thread_id = threading.get_ident()
        self._asked_at: float | None = None
        self._answered = True
        self._reported: dict[str, Any] | None = None

    def look(self) -> None:
        """Look whether the loop has turned since the last look; report it once if it has not."""
        now = time.monotonic()
        if not self._answered and self._asked_at is not None:
            blocked_for = now - self._asked_at
            if blocked_for >= _BLOCKED_SECONDS and self._reported is None:
                self._reported = self._report(blocked_for)
            return
        self._asked_at, self._answered = now, False
        with contextlib.suppress(RuntimeError):  # the loop was closed: nothing to watch
            self._loop.call_soon_threadsafe(self._answer, now)

    def _answer(self, asked_at: float) -> None:
        reported, self._reported = self._reported, None
        self._answered = True
        if reported is not None:
            blocked_for = round(time.monotonic() - asked_at, 3)
            _log.error("loop.unblocked", blocked_seconds=blocked_for, **reported)

    def _report(self, blocked_for: float) -> dict[str, Any]:
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - its documented use
        stack = stack_of_frame(frame)
        job = {} if frame is None else self._find_job(frame)
        report = {"blocked_seconds": round(blocked_for, 3), "where": where(stack), **job}
        text = "".join(stack.format())
        self._stack_reports.keep("blocked", stack=text, **report)
        _log.error("loop.blocked", stack=text, **report)
        return job

    def _find_job(self, frame: FrameType) -> dict[str, Any]:
        at: FrameType | None = frame
        while at is not None:
            job = self._job_of(at)
            if job is not None:
                return job
            at = at.f_back
        return {}
