"""Runs the protocol's script calls on a connection, and counts the commands inside them.

A script is named by its digest; its text is sent only to a server that does not have it. Until a
server is known to have a script, one call of it is under way on a connection and the others wait:

    unknown -- the first call is sent -->     asked
    asked   -- NOSCRIPT: the text is sent --> asked
    asked   -- any other answer -->           known
    asked   -- the reply is lost -->          unknown
    known   -- NOSCRIPT, a lost reply -->     unknown

So thousands of calls at once, on a server that has just started, send a script's text once.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq.protocol.scripts import counted_script, script
from convolab_worker.errors import RedisRefused, RedisUnavailable, ReplyLost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.bullmq.protocol.scripts import Script
    from convolab_worker.connection.commands.usage import Purpose
    from convolab_worker.connection.connection import Connection, KnownScripts


async def run_script(connection: Connection, purpose: Purpose, call: Call) -> Any:
    """Runs a call's script; counts its commands for ``purpose`` once the server has answered.

    A call of a known script is sent before this waits for anything. Raises what
    ``Connection.call`` raises.
    """
    scripts, inner = connection.scripts, call.inner
    found = counted_script(call.script) if inner is None else script(call.script)
    while True:
        is_known = found.sha in scripts.known
        if not is_known and (asked := scripts.asked.get(found.sha)) is not None:
            await asked.wait()
            _expect_open(connection)
            continue
        try:
            if not is_known:
                answer = await _ask(scripts, found, connection, purpose, call)
            elif call.packed is not None:
                packed = found.head(len(call.args)) + call.packed
                answer = await connection.send(purpose, packed)
            else:
                answer = await connection.call(
                    purpose, "EVALSHA", found.sha, len(call.keys), *call.keys, *call.args
                )
        except RedisUnavailable as error:
            if _is_known_no_more(scripts, found, error):
                continue
            raise
        else:
            if inner is None:
                inner, answer = answer
            connection.counter.inner[purpose] += inner
            return answer


def script_of(call: Call) -> Script:
    """Returns what a call runs: where ``call.inner`` is None, the script that counts itself."""
    return counted_script(call.script) if call.inner is None else script(call.script)


async def _ask(
    scripts: KnownScripts, found: Script, connection: Connection, purpose: Purpose, call: Call
) -> Any:
    """Runs a script that may be unknown to the server, while other calls of it wait."""
    asked = scripts.asked[found.sha] = asyncio.Event()
    rest = (len(call.keys), *call.keys, *call.args)
    try:
        try:
            answer = await connection.call(purpose, "EVALSHA", found.sha, *rest)
        except RedisRefused as error:
            if not _is_unknown(error):
                # Otherwise each of the waiting calls would be refused as well.
                scripts.known.add(found.sha)
                raise
            _expect_open(connection)
            answer = await connection.call(purpose, "EVAL", found.text, *rest)
        scripts.known.add(found.sha)
        return answer
    finally:
        del scripts.asked[found.sha]
        asked.set()


def _expect_open(connection: Connection) -> None:
    """Raises ReplyLost where the connection was lost after a call had been sent on it."""
    if not connection.is_open:
        msg = "the connection was lost"
        raise ReplyLost(msg)


async def run_pipeline(
    connection: Connection, purpose: Purpose, calls: Sequence[Call]
) -> list[Any]:
    """Runs calls in one pipeline; returns their answers in order.

    Raises the first error once all calls are answered.
    """
    scripts = connection.scripts
    shas = [script_of(call).sha for call in calls]
    answers: list[Any] = [None] * len(calls)
    left = list(range(len(calls)))
    if scripts.known.issuperset(shas):  # a task for each call would take longer
        sent = [
            connection.call(purpose, "EVALSHA", sha, len(call.keys), *call.keys, *call.args)
            for sha, call in zip(shas, calls, strict=True)
        ]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        inner = 0
        for place, (call, answer) in enumerate(zip(calls, answers, strict=True)):
            if isinstance(answer, RedisUnavailable):
                continue
            if call.inner is None:
                commands, answers[place] = answer
            else:
                commands = call.inner
            inner += commands
        connection.counter.count_inner(purpose, inner)
        left = [place for place, answer in enumerate(answers) if _is_unknown(answer)]
        scripts.known.difference_update(shas[place] for place in left)
    running = [run_script(connection, purpose, calls[place]) for place in left]
    found = await asyncio.gather(*running, return_exceptions=True)
    for place, answer in zip(left, found, strict=True):
        answers[place] = answer
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def _is_known_no_more(scripts: KnownScripts, found: Script, error: RedisUnavailable) -> bool:
    """Whether a call failed because the server does not have its script: then it is repeated."""
    if not isinstance(error, RedisRefused):
        scripts.known.clear()
    if not _is_unknown(error):
        return False
    scripts.known.discard(found.sha)
    return True


def _is_unknown(answer: object) -> bool:
    return isinstance(answer, RedisRefused) and str(answer).startswith("NOSCRIPT")


def now_ms() -> int:
    """Return the current time in milliseconds, as scripts take it."""
    return int(time.time() * 1000)
