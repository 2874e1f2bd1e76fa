"""One Node process for many requests: JSON lines to ``session.mjs`` and back."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

from tests.support.node import NodeScripts

HERE = Path(__file__).parent
# The npm packages by BullMQ's major version; package.json gives 5.x its second name.
PACKAGES = {"6": "bullmq", "5": "bullmq5"}


class NodeError(AssertionError):
    """Node's side could not do what was asked; its stack or its log is the message."""


class NodeSession:
    """A running ``session.mjs`` for BullMQ of the given major version; a context manager.

    ``request`` blocks; ``ask`` is the same from a coroutine. Both give the answer's value, and
    raise NodeError when Node reports an error, dies, or doesn't answer in ``timeout`` seconds.
    """

    def __init__(self, version: str, server_url: str) -> None:
        self.version = version
        self._ids = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._log: list[str] = []
        self._process = subprocess.Popen(
            ["node", "session.mjs", PACKAGES[version], server_url],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._threads = [
            threading.Thread(target=self._hear, name=f"node-{version}-answers", daemon=True),
            threading.Thread(target=self._listen, name=f"node-{version}-log", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, op: str, timeout: float = 20.0, **arguments: Any) -> Any:
        """Send one request and wait for its answer."""
        number = next(self._ids)
        answer: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._answers[number] = answer
        stdin = self._process.stdin
        if stdin is None or self._process.poll() is not None:
            raise NodeError(self._obituary(op))
        stdin.write(json.dumps({"id": number, "op": op, **arguments}) + "\n")
        stdin.flush()
        try:
            reply = answer.get(timeout=timeout)
        except queue.Empty:
            msg = f"Node did not answer {op} within {timeout:g} s\n{''.join(self._log[-40:])}"
            raise NodeError(msg) from None
        finally:
            del self._answers[number]
        if "error" in reply:
            raise NodeError(reply["error"])
        return reply["ok"]

    async def ask(self, op: str, timeout: float = 20.0, **arguments: Any) -> Any:
        """Do the same without blocking the event loop, on which our worker may run."""
        return await asyncio.to_thread(self.request, op, timeout, **arguments)

    def close(self) -> None:
        """End the process and wait for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(timeout=5)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _hear(self) -> None:
        for line in self._process.stdout or ():
            reply = json.loads(line)
            waiting = self._answers.get(reply["id"])
            if waiting is not None:
                waiting.put(reply)
        for waiting in list(self._answers.values()):
            waiting.put({"error": self._obituary("a request")})

    def _listen(self) -> None:
        self._log.extend(self._process.stderr or ())

    def _obituary(self, op: str) -> str:
        log = "".join(self._log[-40:])
        return f"Node ended (exit {self._process.poll()}) before it answered {op}\n{log}"


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
