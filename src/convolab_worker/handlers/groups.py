"""What a raised ``ExceptionGroup``, such as a ``TaskGroup``'s, stands for."""

from __future__ import annotations

import asyncio


def members(error: BaseException) -> list[BaseException]:
    """Return the exceptions in a group, and in the groups in it; of any other, itself.

    A cancellation among others says only that these ended the task, and is left out.
    """
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    found = [member for each in error.exceptions for member in members(each)]
    return [each for each in found if not isinstance(each, asyncio.CancelledError)] or found
