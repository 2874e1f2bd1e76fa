"""The tasks of handlers in the event loop: each handler has one of its own, and begins at once."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from asyncio.tasks import _enter_task, _leave_task  # asyncio documents these for tasks of others
from typing import TYPE_CHECKING, Any

from convolab_worker.worker.execution.begun_coroutine import BegunCoroutine

if TYPE_CHECKING:
    from collections.abc import Coroutine


def begun_task(
    handling: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, name: str
) -> asyncio.Task[None] | None:
    """Make the handler's first step in a task and a context of its own; None if that has ended it.

    Where the application has a task factory, that decides when the handler begins.
    """
    if loop.get_task_factory() is not None:
        return loop.create_task(handling, name=name)
    if sys.version_info >= (3, 12):
        task = asyncio.Task(handling, loop=loop, name=name, eager_start=True)
        return None if task.done() else task
    begun, context = BegunCoroutine(handling), contextvars.copy_context()
    task = asyncio.Task(begun, loop=loop, name=name, context=context)
    current = asyncio.current_task(loop)
    if current is not None:
        _leave_task(loop, current)
    _enter_task(loop, task)
    try:
        has_ended = context.run(begun.begin)
    finally:
        _leave_task(loop, task)
        if current is not None:
            _enter_task(loop, current)
    return None if has_ended else task
