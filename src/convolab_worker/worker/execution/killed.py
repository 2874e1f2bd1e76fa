"""Whether a handler failed since a program that it had started was killed by a stop's signal.

Ctrl-C and service managers signal a whole group: the handler's ffmpeg dies of the same signal that
tells the worker to stop, often first. That says nothing about the job.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHELL = 128  # what shells add to the number of the signal that a program has died of
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# ffmpeg ends with 255 when it is told to stop.
_CODES = frozenset({255, *(-s for s in _SIGNALS), *(_SHELL + s for s in _SIGNALS)})


def died_of_stop(error: BaseException) -> bool:
    """Return whether the error, or one behind it, is of a program that SIGTERM or SIGINT ended."""
    return any(
        getattr(one, "returncode", None) in _CODES or type(one).__name__ == "BrokenProcessPool"
        for one in _behind(error)
    )


def _behind(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes and, of a group, its members; each once."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
