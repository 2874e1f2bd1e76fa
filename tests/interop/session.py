"""One Node process for many requests: JSON lines to ``session.mjs`` and back."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import queue
import subprocess
from pathlib import Path
from typing import Any

from examples.benchmarks.benchkit.child import ChildError, JsonChild
from tests.support.node import NodeScripts

HERE = Path(__file__).parent
# The npm packages by BullMQ's major version; package.json gives 5.x its second name.
PACKAGES = {"6": "bullmq", "5": "bullmq5"}


class NodeSession(JsonChild):
    """A running ``session.mjs`` for BullMQ of the given major version; a context manager.

    ``request`` blocks; ``ask`` is the same from a coroutine. Both give the answer's value, and
    raise ChildError when Node reports an error, dies, or doesn't answer in ``timeout`` seconds.
    """

    def __init__(self, version: str, server_url: str) -> None:
        self.version = version
        self._ids = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        command = ["node", "session.mjs", PACKAGES[version], server_url]
        super().__init__(f"Node with BullMQ {version}", command, cwd=HERE)

    def request(self, op: str, timeout: float = 20.0, **arguments: Any) -> Any:
        """Send one request and wait for its answer."""
        number = next(self._ids)
        answer: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._answers[number] = answer
        try:
            self.send({"id": number, "op": op, **arguments})
            reply = answer.get(timeout=timeout)
        except queue.Empty:
            raise ChildError(self.told(f"did not answer {op} within {timeout:g} s")) from None
        finally:
            del self._answers[number]
        if "error" in reply:
            raise ChildError(reply["error"])
        return reply["ok"]

    async def ask(self, op: str, timeout: float = 20.0, **arguments: Any) -> Any:
        """Do the same without blocking the event loop, on which our worker may run."""
        return await asyncio.to_thread(self.request, op, timeout, **arguments)

    def heard(self, message: dict[str, Any]) -> None:
        """Give an answer to the request that waits for it."""
        waiting = self._answers.get(message.get("id", 0))
        if waiting is not None:
            waiting.put(message)

    def hung_up(self) -> None:
        """Fail the requests that wait."""
        for waiting in list(self._answers.values()):
            waiting.put({"error": self.told("ended before it answered")})


@functools.cache
def scenario_names() -> tuple[str, ...]:
    """The names of the scenarios to compare, for one test each; none where Node is missing."""
    if NodeScripts.missing() is not None:
        return ()
    names = "Object.entries(m.scenarios).filter(([, s]) => !s.timing).map(([name]) => name)"
    tell = f"import('./scenarios.mjs').then((m) => console.log(JSON.stringify({names})))"
    told = subprocess.run(
        ["node", "-e", tell], cwd=HERE, capture_output=True, check=True, timeout=20
    )
    return tuple(json.loads(told.stdout))
