"""Mistakes in addresses that only a connection can find, names with several addresses, TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from convolab_worker.connection import opening
from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter, Purpose
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.route import Route
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import RedisUnavailable
from tests.support.kinds import make_certificates
from tests.support.stopwatch import Stopwatch

pytestmark = pytest.mark.asyncio


def _connection(url: str, *, route: Route | None = None, wait: float = 5.0) -> Connection:
    return Connection(
        route or Address.parse(url), timeout=5.0, connect_timeout=wait, counter=CommandCounter()
    )


@asynccontextmanager
async def _tls_server(folder: Path, answer: bytes) -> AsyncIterator[int]:
    """A server that speaks TLS and gives every command the same answer; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(2**16):
            writer.write(answer)
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_port_that_speaks_tls_is_named_for_redis(tmp_path: Path) -> None:
    """With what to write instead."""
    make_certificates(tmp_path)
    async with _tls_server(tmp_path, b"+OK\r\n") as port:
        with pytest.raises(RedisUnavailable, match="write rediss:// instead of redis://"):
            await _connection(f"redis://127.0.0.1:{port}", wait=1.0).open()


async def test_a_port_that_does_not_speak_tls_is_named_for_rediss(server: EmbeddedServer) -> None:
    """With what to write instead."""
    with pytest.raises(RedisUnavailable, match="write redis:// instead of rediss://"):
        await _connection(f"rediss://127.0.0.1:{server.port}", wait=1.0).open()


async def test_every_address_of_a_name_is_tried(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One family leads nowhere: the other is connected to a quarter of a second later."""
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)  # noqa: FBT003 - its only argument
        filler.connect_ex(silent.getsockname())
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)
        for where in (silent.getsockname(), ("127.0.0.1", server.port))
    ]

    async def addresses(*_: Any) -> Any:
        return found

    monkeypatch.setattr(opening, "_addresses", addresses)
    connection = _connection("redis://two.addresses.test")
    began = time.monotonic()
    try:
        with Stopwatch() as watch:
            await connection.open()
        took = time.monotonic() - began
        assert await connection.call(Purpose.STATUS, "PING") == b"PONG"
    finally:
        await connection.close()
        for sock in (silent, *fillers):
            sock.close()
    assert took > 0.2
    assert watch.seconds < 2


async def test_a_certificate_is_checked_against_the_configured_name(
    tmp_path: Path,
) -> None:
    """A cluster's node names others by number: their certificates are for the cluster's name."""
    make_certificates(tmp_path, "DNS:localhost")
    ca = f"?ssl_ca_certs={tmp_path}/ca.crt"
    async with _tls_server(tmp_path, b"+OK\r\n") as port:
        with pytest.raises(RedisUnavailable, match="certificate .* is not trusted"):
            await _connection(f"rediss://127.0.0.1:{port}{ca}").open()
        route = Route(Address.parse(f"rediss://localhost:{port}{ca}"))
        route.follow(f"127.0.0.1:{port}")
        connection = _connection("", route=route)
        await connection.open()
        await connection.close()
        route.follow(f"another.test:{port}")
        assert (await route.locate()).tls_name is None


async def test_a_large_answer_is_whole_through_tls(tmp_path: Path) -> None:
    """It comes in many records of TLS, of which asyncio reads several at once."""
    make_certificates(tmp_path)
    text = b"".join(b"%07d " % number for number in range(250_000))
    answer = b"$%d\r\n%b\r\n" % (len(text), text)
    async with _tls_server(tmp_path, answer) as port:
        url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path}/ca.crt"
        connection = Connection(
            Address.parse(url), timeout=5.0, counter=CommandCounter(), identify=False
        )
        await connection.open()
        try:
            answered = await connection.call(Purpose.STATUS, "GET", "text")
        finally:
            await connection.close()
    assert answered == text


@pytest.mark.parametrize("how", ["named in the address", "SSL_CERT_FILE"])
async def test_an_authority_that_is_replaced_counts_at_the_next_connect(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections share what was read of its file, for as long as that is the same file."""
    query = f"?ssl_ca_certs={tmp_path}/ca.crt" if how.startswith("named") else ""
    monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/ca.crt")
    contexts = set()
    for _ in range(2):
        make_certificates(tmp_path)
        async with _tls_server(tmp_path, b"+OK\r\n") as port:
            address = Address.parse(f"rediss://127.0.0.1:{port}{query}")
            for _ in range(2):
                connection = _connection("", route=Route(address))
                await connection.open()
                await connection.close()
                contexts.add(address.ssl_context())
    assert len(contexts) == 2
