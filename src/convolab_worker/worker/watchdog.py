"""Notices a handler that blocks the event loop; says which, for how long, where it stands."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import structlog

from convolab_worker.worker.stack_reports import StackReports, innermost, stack_of_frame

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType

_log = structlog.get_logger("convolab_worker")
_BLOCKED_SECONDS = 1.0


class Watchdog:
    """Watches the loop and the thread that it is made in; ``look`` is called from another thread.

    ``job_of`` names the job that a frame of the loop's thread belongs to, where it is one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        job_of: Callable[[FrameType], dict[str, Any] | None],
        stack_reports: StackReports,
    ) -> None:
        """Watch from now on; what is reported is kept in ``stack_reports`` too."""
        self._loop = loop
        self._job_of = job_of
        self._whereabouts = stack_reports
        self._thread_id = threading.get_ident()
        self._asked_at: float | None = None
        self._answered = True
        self._reported: dict[str, Any] | None = None

    def look(self) -> None:
        """See whether the loop has turned since the last look; report it once where it has not."""
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
        report = {"blocked_seconds": round(blocked_for, 3), "where": innermost(stack), **job}
        text = "".join(stack.format())
        self._whereabouts.keep("blocked", stack=text, **report)
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
