"""The tasks of handlers in the event loop: each handler has one of its own, and begins at once."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from asyncio.tasks import _enter_task, _leave_task  # asyncio documents these for tasks of others
from typing import TYPE_CHECKING, Any

from convolab_worker.worker.execution.begun_coroutine import BegunCoroutine, is_known

if TYPE_CHECKING:
    from collections.abc import Coroutine

_SPARE_NAME = "convolab-handler"


class HandlerTasks:
    """Begins handlers in ``loop``, each in a task and a context of its own.

    On Python 3.11 the task of a handler that has ended at once is spare, and the next one's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._spare: tuple[BegunCoroutine, asyncio.Task[None]] | None = None

    def begin(self, handling: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        """Make the handler's first step in its task; None if that has ended it.

        Where the application has a task factory, that decides when the handler begins.
        """
        if self.loop.get_task_factory() is not None:
            return self.loop.create_task(handling, name=name)
        if sys.version_info >= (3, 12):
            task = asyncio.Task(handling, loop=self.loop, name=name, eager_start=True)
            return None if task.done() else task
        return self._begun(handling, name)

    def _begun(self, handling: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        loop = self.loop
        begun, task = self._spare or _new(loop)
        self._spare = None
        if not begun.is_free(task):  # somebody has cancelled it
            begun, task = _new(loop)
        task.set_name(name)
        current = asyncio.current_task(loop)
        if current is not None:
            _leave_task(loop, current)
        _enter_task(loop, task)
        try:
            has_ended = begun.begin(handling, contextvars.copy_context())
        finally:
            _leave_task(loop, task)
            if current is not None:
                _enter_task(loop, current)
        if not has_ended:
            return task
        if is_known(task) or self._spare is not None:
            begun.end()
        else:
            task.set_name(_SPARE_NAME)
            self._spare = begun, task
        return None

    async def close(self) -> None:
        """End the spare task."""
        if self._spare is not None:
            (begun, task), self._spare = self._spare, None
            begun.end()
            await asyncio.wait({task})


def _new(loop: asyncio.AbstractEventLoop) -> tuple[BegunCoroutine, asyncio.Task[None]]:
    begun = BegunCoroutine()
    # Its own context is an empty one: a handler's would keep what that has bound.
    return begun, asyncio.Task(begun, loop=loop, context=contextvars.Context())
