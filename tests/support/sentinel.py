"""A Sentinel that says what a test tells it, at once: real ones agree after a second or two."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import hiredis

if TYPE_CHECKING:
    import ssl


class ToldSentinel:
    """Names the primary at ``port`` on loopback, as of ``config_epoch``; use it with ``async``."""

    def __init__(
        self, port: int, config_epoch: int = 1, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._tls = tls
        self.primary = port
        self.config_epoch = config_epoch
        self.asked = 0
        self.is_silent = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def node(self) -> str:
        """Where it listens, as an address lists it."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def name(self, port: int) -> None:
        """Name another primary from now on."""
        self.primary = port
        self.config_epoch += 1

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        commands = hiredis.Reader()
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                commands.feed(data)
                while (command := commands.gets()) is not False and not self.is_silent:
                    assert isinstance(command, list)
                    writer.write(_packed(self._answer(command[1])))
        writer.close()

    def _answer(self, asks: bytes) -> tuple[str, ...]:
        if asks == b"MASTER":
            return "name", "told", "config-epoch", str(self.config_epoch)
        self.asked += 1
        return "127.0.0.1", str(self.primary)


def _packed(words: tuple[str, ...]) -> bytes:
    parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
    return f"*{len(parts)}\r\n{''.join(parts)}".encode()
