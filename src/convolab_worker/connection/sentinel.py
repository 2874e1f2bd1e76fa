"""Asks Sentinels where a primary is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec.structs import replace

from convolab_worker.connection.connection import Connection
from convolab_worker.connection.usage import CommandCounter, Purpose
from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    from convolab_worker.connection.address import Address
    from convolab_worker.settings.urls import Sentinels

# One that has not answered by then is gone.
_ASK_SECONDS = 2.0


async def primary_of(address: Address, sentinels: Sentinels) -> tuple[str, int]:
    """Return the host and port of the primary, from the Sentinel that answers first.

    All are asked at once: one that is gone delays nobody, and nobody bills the questions. Raises
    RedisUnavailable, which says what each one said.
    """
    said: list[str] = []
    asked = [
        asyncio.create_task(_ask(_address_of(node, address, sentinels), sentinels.master))
        for node in sentinels.nodes
    ]
    try:
        for answer in asyncio.as_completed(asked):
            try:
                return await answer
            except RedisUnavailable as error:
                said.append(str(error))
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    msg = f"no Sentinel knows where the primary {sentinels.master} is: {'; '.join(said)}"
    raise RedisUnavailable(msg)


def _address_of(node: tuple[str, int], address: Address, sentinels: Sentinels) -> Address:
    return replace(
        address,
        host=node[0],
        port=node[1],
        path=None,
        tls=sentinels.tls,
        username=sentinels.username,
        password=sentinels.password,
        database=0,
        sentinels=None,
    )


async def _ask(sentinel: Address, master: str) -> tuple[str, int]:
    connection = Connection(
        sentinel,
        timeout=_ASK_SECONDS,
        connect_timeout=_ASK_SECONDS,
        counter=CommandCounter(),
        identify=False,
    )
    try:
        await connection.open()
        found = await connection.call(
            Purpose.CONNECT, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", master
        )
    finally:
        await connection.close()
    if found is None:
        msg = f"{sentinel} knows no primary called {master}"
        raise RedisUnavailable(msg)
    return found[0].decode(), int(found[1])
