"""What a raised ``ExceptionGroup``, such as a ``TaskGroup``'s, stands for."""

from __future__ import annotations

import asyncio


def members(error: BaseException) -> list[BaseException]:
    """Return the exceptions in a group and in its groups; for any other exception, itself.

    A cancellation among others is left out: it only says that the others ended the task.
    """
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    found = [member for each in error.exceptions for member in members(each)]
    return [each for each in found if not isinstance(each, asyncio.CancelledError)] or found
