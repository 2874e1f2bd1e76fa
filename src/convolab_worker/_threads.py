"""Calls in threads that do not keep the process from ending, whatever they wait for."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def start_call(
    function: Callable[[], Any], tell: Callable[[Any, BaseException | None], object], name: str
) -> None:
    """Call the function in a thread of that name, which tells of its value or its error."""
    context = contextvars.copy_context()

    def main() -> None:
        value, error = None, None
        try:
            value = context.run(function)
        except BaseException as raised:  # noqa: BLE001 - it is raised where it is waited for
            error = raised
        tell(value, error)

    # A daemon, and not a pool's thread: the interpreter waits for those.
    threading.Thread(target=main, name=name, daemon=True).start()


async def in_thread(function: Callable[[], Any], name: str) -> Any:
    """Return what the function returns in a thread of that name. Raises what it raises."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def end(value: Any, error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result((value, error))

    def tell(value: Any, error: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(end, value, error)

    start_call(function, tell, name)
    return outcome(*await ended)


def outcome(value: Any, error: BaseException | None) -> Any:
    """Return the value that a thread has told, or raise the error."""
    if error is not None:
        raise error
    return value
