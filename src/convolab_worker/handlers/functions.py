"""Looks at an application's functions, through whatever wraps them: kind, place, arguments."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from convolab_worker.errors import ConfigurationError
from convolab_worker.payloads.annotation import layers
from convolab_worker.settings.units import is_number

if TYPE_CHECKING:
    from collections.abc import Callable


def is_async(function: Callable[..., Any]) -> bool:
    """Whether it, or a function that it wraps, is an ``async def``."""
    return any(inspect.iscoroutinefunction(layer) for layer in layers(function))


def has_yield(function: Callable[..., Any]) -> bool:
    """Whether a call of it only makes a generator, of which nobody runs the code."""
    called = getattr(type(function), "__call__", None)  # noqa: B004 - of an object that is called
    return any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each)
        for each in (function, called)
    )


def place(function: Callable[..., Any]) -> str:
    """Where the function was written: module, name and line."""
    *_, innermost = layers(function)
    code = getattr(innermost, "__code__", None)
    line = f":{code.co_firstlineno}" if code is not None else ""
    name = getattr(innermost, "__qualname__", repr(innermost))
    return f"{getattr(innermost, '__module__', '?')}.{name}{line}"


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether the function can be called with that many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a built-in that does not tell its signature
        return True
    return True


def checked_timeout(timeout: float | None, where: str) -> float | None:
    """The checked ``timeout`` of what ``where`` names. Raises ConfigurationError."""
    if timeout is not None and not (is_number(timeout) and 0 < timeout < float("inf")):
        msg = f"{where}: timeout={timeout!r}: expected seconds above 0, or None"
        raise ConfigurationError(msg)
    return timeout
