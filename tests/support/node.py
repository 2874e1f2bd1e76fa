"""Running the Node scripts of tests/interop, with JSON in and out."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

INTEROP = Path(__file__).parents[1] / "interop"
HOW_TO_RUN = "install Node.js 20 or newer with npm, then run `make test` or `make interop`"
_LINE_BYTES = 64 * 1024 * 1024


class NodeProcess:
    """A running Node script that speaks JSON, one value a line, on its standard streams."""

    def __init__(self, script: str, process: asyncio.subprocess.Process) -> None:
        self._script = script
        self._process = process
        self._errors: list[bytes] = []
        self._draining = asyncio.create_task(self._drain(), name=f"node-stderr-{script}")

    @property
    def pid(self) -> int:
        """The process id of Node."""
        return self._process.pid

    async def send(self, message: object) -> None:
        """Write one value to the script's standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()

    async def receive(self, *, timeout: float = 20.0) -> Any:
        """Return the next value that the script writes, or fail with what it said instead."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout)
        except TimeoutError:
            msg = f"{self._script} wrote nothing within {timeout:g} s\n{self._said()}"
            raise AssertionError(msg) from None
        if not line:
            await self._draining
            msg = f"{self._script} ended with {await self._process.wait()}\n{self._said()}"
            raise AssertionError(msg)
        return json.loads(line)

    async def ask(self, op: str, *, timeout: float = 60.0, **arguments: Any) -> Any:
        """Have a script that serves requests do something; its error fails the test."""
        await self.send({"op": op, **arguments})
        answer = await self.receive(timeout=timeout)
        assert "error" not in answer, answer["error"]
        return answer["ok"]

    def kill(self) -> None:
        """End the script at once."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def close(self, *, timeout: float = 5.0) -> int:
        """Close the script's input, wait for its end (killing it when late), return its code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = await asyncio.wait_for(self._process.wait(), timeout)
        except TimeoutError:
            self.kill()
            code = await self._process.wait()
        await self._draining
        return code

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _drain(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._errors.append(line)

    def _said(self) -> str:
        return b"".join(self._errors[-40:]).decode(errors="replace")


class NodeScripts:
    """The Node scripts of one folder."""

    def __init__(self, folder: Path = INTEROP) -> None:
        self._folder = folder

    @staticmethod
    def missing() -> str | None:
        """Why Node scripts can't run here, or None."""
        if shutil.which("node") is None:
            return f"no Node.js on this machine: {HOW_TO_RUN}"
        if not (INTEROP / "node_modules" / "bullmq").is_dir():
            return f"tests/interop/node_modules is missing: {HOW_TO_RUN}"
        return None

    async def start(
        self, script: str, *arguments: str, environ: Mapping[str, str] | None = None
    ) -> NodeProcess:
        """Start a script, with some variables more; use the process as an async context manager."""
        process = await asyncio.create_subprocess_exec(
            "node",
            str(self._folder / script),
            *arguments,
            env={**os.environ, **(environ or {})},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
        )
        return NodeProcess(script, process)

    async def run(self, script: str, task: object = None, *, timeout: float = 30.0) -> Any:
        """Run a script to its end, its task a line of its input; return the one line it writes.

        Fails the test, with what the script wrote to its standard error, when it writes nothing
        within ``timeout`` seconds or ends with a code other than 0.
        """
        async with await self.start(script) as node:
            await node.send(task)
            answer = await node.receive(timeout=timeout)
            code = await node.close()
        assert code == 0, f"{script} ended with {code} after its answer"
        return answer
