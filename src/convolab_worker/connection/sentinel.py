"""Asks Sentinels where a primary is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from convolab_worker.connection.commands.usage import CommandCounter, Purpose
from convolab_worker.connection.connection import Connection
from convolab_worker.errors import RedisRefused, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convolab_worker.connection.address import Address
    from convolab_worker.settings.sentinels import Sentinels

# A Sentinel that has not answered by then is taken for gone.
_ASK_SECONDS = 2.0
# How long, after the first answer, the others are waited for: they may know more.
_OTHERS_SECONDS = 0.25


class Primary(NamedTuple):
    """Where a Sentinel says that the primary is; 0 for an epoch that it does not tell.

    Of two Sentinels that disagree, the higher ``config_epoch`` is the newer. After failovers that
    two have begun at once there may be two primaries of one epoch.
    """

    config_epoch: int
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def is_at(self, other: Primary | None) -> bool:
        return other is not None and (self.host, self.port) == (other.host, other.port)


def newest(answers: Sequence[Primary], known: Primary | None) -> Primary:
    """Return which of the answers is to be believed, where ``known`` is believed now."""
    return max(answers, key=lambda answer: (answer.config_epoch, answer.is_at(known)))


async def primary_of(address: Address, sentinels: Sentinels, known: Primary | None) -> Primary:
    """Return the primary of the Sentinel whose answer is the newest; of equals, the ``known`` one.

    During a failover they disagree for a second or two. All are asked at once: one that is gone
    delays nobody, and nobody bills the questions. Raises RedisUnavailable, which says what each
    one said.
    """
    asked = [
        asyncio.create_task(_ask(_address_of(node, address, sentinels), sentinels.master))
        for node in sentinels.nodes
    ]
    said: list[str] = []
    answers: list[Primary] = []
    left = set(asked)
    try:
        while left:
            patience = _OTHERS_SECONDS if answers else None
            done, left = await asyncio.wait(
                left, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for task in done:
                try:
                    answers.append(task.result())
                except RedisUnavailable as error:
                    said.append(str(error))
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    if answers:
        return newest(answers, known)
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


async def _ask(sentinel: Address, master: str) -> Primary:
    connection = Connection(
        sentinel,
        timeout=_ASK_SECONDS,
        connect_timeout=_ASK_SECONDS,
        counter=CommandCounter(),
        identify=False,
    )
    try:
        await connection.open()
        where = connection.call(Purpose.CONNECT, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", master)
        state = connection.call(Purpose.CONNECT, "SENTINEL", "MASTER", master)
        found, config_epoch = await where, await _config_epoch(state)
    finally:
        await connection.close()
    if found is None:
        msg = f"{sentinel} knows no primary called {master}"
        raise RedisUnavailable(msg)
    return Primary(config_epoch, found[0].decode(), int(found[1]))


async def _config_epoch(state: asyncio.Future[list[bytes]]) -> int:
    """Return which configuration of the primary a Sentinel has; 0 if we may not ask that."""
    try:
        fields = await state
    except RedisRefused:
        return 0
    return int(dict(zip(fields[::2], fields[1::2], strict=False)).get(b"config-epoch", 0))
