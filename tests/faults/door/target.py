"""A worker behind its wake server, as a process that is attacked, and what it answers."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from prometheus_client.parser import text_string_to_metric_families

from tests.support.logged import RUN, LoggedProcess

if TYPE_CHECKING:
    from pathlib import Path

APP = "tests.faults.door.app:handlers"
PATIENCE_SECONDS = 20.0
_HEAD = re.compile(rb"HTTP/\d\.\d (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The error that it tells, in JSON."""
        return str(json.loads(self.body)["error"])


def answers_in(data: bytes) -> list[Answer]:
    """Take apart what a connection gave; interim answers (100) are left out.

    An answer to HEAD has a length and no body. Fails the test if there is anything else.
    """
    found = []
    while data:
        match = _HEAD.match(data)
        assert match, data[:200]
        status, data = int(match[1]), data[match.end() :]
        lines = [line.split(": ", 1) for line in match[2].decode("latin-1").splitlines()]
        headers = {name.lower(): value for name, value in lines}
        length = 0 if data.startswith(b"HTTP/") else int(headers.get("content-length", 0))
        if headers.get("transfer-encoding") == "chunked":
            _, end, rest = data.partition(b"\r\n0\r\n\r\n")
            length = len(data) - len(rest) if end else len(data)
        body, data = data[:length], data[length:]
        if status != 100:
            found.append(Answer(status, headers, body))
    return found


class Target:
    """The process; ``descriptors`` are its limits, soft and hard."""

    def __init__(
        self, redis_url: str, queue: str, log: Path, *, descriptors: str = "1024", **variables: str
    ) -> None:
        environ = {
            "REDIS_URL": redis_url,
            "CONVOLAB_QUEUES": queue,
            "CONVOLAB_WAKE_TOKEN": "",
            "PORT": "0",
            **variables,
        }
        limits = f"ulimit {descriptors if '-' in descriptors else f'-n {descriptors}'}; "
        command = ["sh", "-c", f'{limits} exec "$@"', "sh", *RUN, "--wake", "--app", APP]
        self.log_path = log
        self.process = LoggedProcess(command, environ, log)
        self.port = 0

    async def __aenter__(self) -> Self:
        listening = await self.process.says("server.listening", within=PATIENCE_SECONDS)
        self.port = listening["port"]
        await self.process.says("worker.started", within=PATIENCE_SECONDS)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.process.kill()

    async def send(self, data: bytes, *, half_close: bool = False) -> list[Answer]:
        """Send bytes on a connection of their own; return what comes until it is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            if half_close:
                writer.write_eof()
            return answers_in(await asyncio.wait_for(reader.read(), PATIENCE_SECONDS))
        finally:
            writer.close()

    async def get(self, path: str, *headers: str, method: str = "GET") -> Answer:
        """Send one request on a connection of its own; return its answer."""
        lines = (f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers)
        data = "".join(f"{line}\r\n" for line in lines) + "\r\n"
        (answer,) = await self.send(data.encode("latin-1"))
        return answer

    async def metrics(self, *headers: str) -> dict[tuple[str, ...], float]:
        """Return the samples of ``/metrics``, by name and the values of their labels."""
        text = (await self.get("/metrics", *headers)).body.decode()
        return {
            (sample.name.removeprefix("convolab_worker_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def troubles(self) -> list[str]:
        """Return the lines of its log that are errors, or no line of ours."""
        found = []
        for line in self.process.text().splitlines():
            try:
                entry: Any = json.loads(line)
                if entry["level"] in {"error", "critical"}:
                    found.append(line)
            except (ValueError, KeyError, TypeError):
                found.append(line)
        return found


class Crowd:
    """Many sockets of one attacker, which are opened and kept."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < min(hard, 4096):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))

    async def join(self, number: int, data: bytes = b"", *, reads: bool = False) -> None:
        """Open so many more; each sends ``data`` and, if it ``reads``, waits for some answer."""
        loop = asyncio.get_running_loop()
        for _ in range(number):
            sock = socket.socket()
            sock.setblocking(False)  # noqa: FBT003 - the socket's way
            self._sockets.append(sock)
            await asyncio.wait_for(
                loop.sock_connect(sock, ("127.0.0.1", self._port)), PATIENCE_SECONDS
            )
            if data:
                await loop.sock_sendall(sock, data)
            if reads:
                await asyncio.wait_for(loop.sock_recv(sock, 4096), PATIENCE_SECONDS)

    def leave(self) -> None:
        """Close them all."""
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
