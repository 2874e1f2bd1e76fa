"""A provider whose quota is spent: it answers every command with its error, until it is raised."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

import hiredis

# What Upstash answers to every command.
_ERROR = b"-ERR max requests limit exceeded. Limit: 500000, Usage: 500001.\r\n"


class QuotaGate:
    """Stands before a server on loopback; while ``spent`` it refuses, and counts, every command."""

    def __init__(self, upstream_url: str) -> None:
        self._upstream = urlsplit(upstream_url)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.spent = False
        self.refused = 0

    @property
    def url(self) -> str:
        """Where the gate is, in the form that REDIS_URL takes."""
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        host, port = self._upstream.hostname, self._upstream.port
        up_reader, up_writer = await asyncio.open_connection(host, port)
        self._writers += [writer, up_writer]
        flow = _Flow()
        answers = asyncio.create_task(flow.carry_answers(up_reader, writer))
        self._tasks.add(answers)
        commands = hiredis.Reader()
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    if self.spent:
                        await flow.all_answered.wait()
                        self.refused += 1
                        writer.write(_ERROR)
                    else:
                        flow.forwarded()
                        up_writer.write(hiredis.pack_command(tuple(command)))
        up_writer.close()


class _Flow:
    """Answers of one connection, in order: a refusal comes after what was forwarded before it."""

    def __init__(self) -> None:
        self._unanswered = 0
        self.all_answered = asyncio.Event()
        self.all_answered.set()

    def forwarded(self) -> None:
        self._unanswered += 1
        self.all_answered.clear()

    async def carry_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        answers = hiredis.Reader()
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                answers.feed(data)
                while answers.gets() is not False:
                    self._unanswered -= 1
                if not self._unanswered:
                    self.all_answered.set()
