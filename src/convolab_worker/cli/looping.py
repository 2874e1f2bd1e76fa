"""The event loop that a command runs in: uvloop's where that extra is installed."""

from __future__ import annotations

import asyncio
import gc
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def run_in_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end as ``asyncio.run`` does.

    What has been imported by then stays: the garbage collector need not look through it again,
    which holds every job up for 10 to 100 ms, the more the larger the application is.
    """
    gc.freeze()
    with asyncio.Runner(loop_factory=_faster_loop()) as runner:
        return runner.run(main)


def _faster_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if find_spec("uvloop") is None:
        return None
    from uvloop import new_event_loop

    return new_event_loop
