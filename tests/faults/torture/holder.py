"""Who holds the requests of a worker that works only while one is held: a scheduler, as it were."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import ClientError, ClientSession, ClientTimeout

from tests.faults.harness import lasting
from tests.faults.torture.account import HOLD_END, Deed

if TYPE_CHECKING:
    import random

    from tests.faults.torture.fleet import Place

_SHORTEST_SECONDS, _LONGEST_SECONDS = 1.0, 6.0
_HANG_UP_SHARE = 0.2
# A worker returns what has not ended in the last part of a hold.
_ENDING_SECONDS = 3.0


class Holder:
    """Holds one request after another, or two at once, and hangs up on some; counts the answers."""

    def __init__(self, place: Place, rng: random.Random) -> None:
        self._place = place
        self._rng = rng
        self.answers: Counter[str] = Counter()
        self.deeds: list[Deed] = []

    async def hold_on(self) -> None:
        """Hold until this is cancelled."""
        async with ClientSession(timeout=ClientTimeout(total=60.0)) as session:
            while True:
                count = self._rng.choice((1, 1, 2))
                await asyncio.gather(*(self._hold(session) for _ in range(count)))
                await lasting(self._rng.uniform(0.0, 0.5))

    async def _hold(self, session: ClientSession) -> None:
        seconds = self._rng.uniform(_SHORTEST_SECONDS, _LONGEST_SECONDS)
        hangs_up = self._rng.random() < _HANG_UP_SHARE
        url = f"http://127.0.0.1:{self._place.port}/wake?hold={seconds:.2f}s"
        began = time.time()
        how = "hung up" if hangs_up else "no answer"
        with suppress(ClientError, TimeoutError):
            async with asyncio.timeout(seconds * self._rng.random() if hangs_up else None):
                how = await self._answer(session, url)
        if how == "no answer":  # the worker starts, is killed, or stops
            await lasting(0.2)
        self.answers[how] += 1
        if how != "drained":
            began = max(began, time.time() - _ENDING_SECONDS)
            ended = time.time() + _ENDING_SECONDS
            self.deeds.append(Deed(HOLD_END, frozenset(), round(began * 1000), round(ended * 1000)))

    async def _answer(self, session: ClientSession, url: str) -> str:
        async with session.post(url) as answer:
            body = await answer.text()
        if answer.status != 200:
            return f"{answer.status}"
        return str(json.loads(body)["status"])
