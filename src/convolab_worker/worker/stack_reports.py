"""Where a coroutine or a thread stands, and the last reports of those that stood too long."""

from __future__ import annotations

import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_DEEPEST = 30
# How what awaits, of each kind, names its frame and what it waits for.
_KINDS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"))


class StackReports:
    """The last report of each kind, for ``stats``; may be written from any thread."""

    def __init__(self) -> None:
        """Start without any."""
        self._last: dict[str, dict[str, Any]] = {}

    def keep(self, kind: str, **report: Any) -> None:
        """Keep the newest report of its kind, with its time."""
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
    """Where a coroutine waits, the outermost frame first; an async generator is not seen into."""
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
    """What stands below the first frame of a file: the handler's part of a stack."""
    for place, frame in enumerate(stack):
        if frame.filename == filename:
            return traceback.StackSummary.from_list(list(stack[place + 1 :]))
    return stack


def innermost(stack: traceback.StackSummary) -> str | None:
    """The line where it stands, as FILE:LINE in FUNCTION."""
    if not stack:
        return None
    frame = stack[-1]
    return f"{frame.filename}:{frame.lineno} in {frame.name}"
