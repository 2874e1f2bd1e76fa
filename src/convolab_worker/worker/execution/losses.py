"""A command after which the connection is lost is the cause, until it is proven otherwise.

A server, or a proxy before it, that takes no command of a size closes the connection, and whatever
else was under way on it is lost as well:

    sent with others -- lost -->       alone    on a connection of its own, after a pause
    alone            -- lost -->       alone    a longer pause each time, and a word in the log
    alone            -- lost often --> blamed   the job comes to something shorter, with the reason
    alone            -- answered -->   written  another command had been the cause
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from convolab_worker.bullmq.jobs.outcome import AwaitsChildren, Completed, Failed, Lost, Outcome
from convolab_worker.errors import ReplyLost
from convolab_worker.payloads.encode import byte_size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.connection.connection import Connection

T = TypeVar("T")

# A command of so many bytes is lost for its size; what is smaller has to be lost more often.
LARGE_BYTES = 64 * 1024
# A result of so many characters is not measured: no setting allows less.
SMALL_CHARACTERS = 256
_MOST_LARGE_LOSSES, _MOST_LOSSES = 3, 6
# One that is too large is answered by the end of the connection; silence has other reasons, such as
# writes that are paused on the server until another one takes over.
_MOST_SILENT_LOSSES = 20
_LONGEST_SECONDS = 5.0
# What is left of a reason or a stack trace that can't be written.
_LEFT_CHARACTERS = 1000
_LIMITS = "the server's client-query-buffer-limit or a proxy limits how large a command may be"


def is_to_blame(size: int, losses: int, silences: int) -> bool:
    """Return whether a command of ``size`` is what its connections are lost by.

    It was lost so often, the first time with others; so often with no answer in time, not with the
    end of the connection.
    """
    if silences > _MOST_SILENT_LOSSES:
        return True
    return losses - silences > most_losses(size)


def most_losses(size: int) -> int:
    """Return after how many losses on a connection of its own a command of ``size`` is blamed."""
    return _MOST_LARGE_LOSSES if size >= LARGE_BYTES else _MOST_LOSSES


def loss_delay(losses: int, *, random: float) -> float:
    """Return the seconds until a command is sent again that was lost so often."""
    return float(min(0.05 * 2 ** min(losses, 10), _LONGEST_SECONDS)) * (0.75 + 0.25 * random)


def size_of(call: Call) -> int:
    """Return about how many bytes are sent by the call that writes an outcome."""
    return sum(_length(argument) for argument in call.args)


def _length(argument: Any) -> int:
    if isinstance(argument, str):
        return byte_size(argument)
    return len(argument) if isinstance(argument, bytes) else 0


def blamed(outcome: Outcome, size: int, losses: int) -> Outcome:
    """Return what a job comes to whose outcome is lost, with the connection, each time."""
    return _shorter(outcome, size, told_lost(size, losses))


def told_lost(size: int, losses: int) -> str:
    """Return the words for a command that was lost so often, with the connection each time."""
    told = f"was sent {losses} times, and each time the connection was lost"
    return f"{told}: {_LIMITS}" if size >= LARGE_BYTES else told


def too_large(outcome: Outcome, size: int, limit: int) -> Outcome:
    """Return what a job comes to whose outcome may not be sent at all."""
    return _shorter(outcome, size, told_too_large(limit))


def told_too_large(limit: int) -> str:
    """Return the words for a command of more bytes than are sent."""
    return f"can't be written: no more than {limit} bytes are sent (CONVOLAB_MAX_COMMAND_SIZE)"


def refused_for_size(outcome: Outcome, size: int, error: str) -> Outcome:
    """Return what a job comes to whose outcome the server refuses for its size."""
    return _shorter(outcome, size, f"can't be written: Redis refuses it: {error}")


def _shorter(outcome: Outcome, size: int, told: str) -> Outcome:
    if isinstance(outcome, Failed):
        stack = outcome.stack or ""
        if len(outcome.reason) <= 2 * _LEFT_CHARACTERS and len(stack) <= 2 * _LEFT_CHARACTERS:
            return Lost(f"its failure {told}")
        reason = f"{outcome.reason[:_LEFT_CHARACTERS]} … ({size} bytes with its stack: it {told})"
        return Failed(reason, stack[-_LEFT_CHARACTERS:], outcome.retry_in, error=outcome.error)
    if isinstance(outcome, Completed):
        return Failed(f"its result of {size} bytes {told}")
    if isinstance(outcome, AwaitsChildren):
        return Failed(f"the data of its children, up to {size} bytes each, {told}")
    return Failed(f"what it came to {told}")


class Isolation:
    """Sends suspect commands on the connection, which nobody else uses, one job's at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    async def run(self, send: Callable[[Connection], Awaitable[T]]) -> T:
        """Return what ``send`` returns for a connection that is open. Raises what it raises."""
        async with self._turn:
            await self._connection.open()
            try:
                answer = await send(self._connection)
            except ReplyLost:
                # The server kills the lost connection for the next one: what was sent on it is
                # executed by then, or never.
                with contextlib.suppress(Exception):
                    await self._connection.open()
                raise
            finally:
                await self._connection.close()
            return answer
