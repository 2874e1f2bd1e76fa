"""The worker processes of a torture run: a number of places, each with a worker most of the time.

Workers of every second place reach the server through a proxy of their own. Those of the last
``held`` places work only while requests are held.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from typing import Any, Self

from tests.faults.harness import Bench
from tests.support.logged import LoggedProcess
from tests.support.ports import free_port
from tests.support.proxy import TcpProxy
from tests.support.waiting import wait_until

_APP = "tests.faults.torture.app:handlers"


class Place:
    """Where one worker runs; ``lock`` is held by whoever does harm to it."""

    def __init__(
        self,
        bench: Bench,
        proxy: TcpProxy | None,
        settings: dict[str, Any],
        *,
        port: int | None = None,
    ) -> None:
        self._bench = bench
        self._settings = settings
        self._retired: list[LoggedProcess] = []
        self.proxy = proxy
        self.port = port
        self.lock = asyncio.Lock()
        self.worker = self._start()

    def _start(self) -> LoggedProcess:
        overrides = dict(self._settings)
        if self.proxy is not None:
            overrides["redis_url"] = self.proxy.url
        return self._bench.process(app=_APP, log_level="info", held_port=self.port, **overrides)

    @property
    def is_alone(self) -> bool:
        """Whether nobody does harm to this worker just now."""
        return not self.lock.locked()

    @property
    def workers(self) -> list[LoggedProcess]:
        """All workers that have run here."""
        return [*self._retired, self.worker]

    def replace(self) -> None:
        """Start another worker in the place of one that has ended."""
        self._retired.append(self.worker)
        self.worker = self._start()


class Fleet:
    """``size`` places, ``held`` of them held; a context manager that ends what still runs."""

    def __init__(self, bench: Bench, size: int, *, held: int = 0, **settings: Any) -> None:
        self._bench = bench
        self._size = size
        self._held = held
        self._settings = settings
        self._stack = ExitStack()
        self.places: list[Place] = []

    def __enter__(self) -> Self:
        for number in range(self._size):
            proxy = self._proxy() if number % 2 else None
            port = free_port() if number >= self._size - self._held else None
            self.places.append(Place(self._bench, proxy, self._settings, port=port))
        return self

    def _proxy(self) -> TcpProxy:
        return self._stack.enter_context(TcpProxy(self._bench.port))

    def __exit__(self, *_: object) -> None:
        for place in self.places:
            place.worker.kill()
        self._stack.close()

    def said(self, event: str) -> list[dict[str, Any]]:
        """All log lines of that event."""
        workers = [worker for place in self.places for worker in place.workers]
        return [line for worker in workers for line in worker.events(event)]

    def ended_by_itself(self) -> list[str]:
        """Workers that have ended though nobody told them to."""
        return [
            f"worker {place.worker.pid} has ended by itself: {place.worker.text()[-2000:]}"
            for place in self.places
            if place.is_alone and place.worker.exit_code is not None
        ]

    async def stop(self, *, within: float) -> list[str]:
        """Stop every worker as a platform does; what went wrong."""
        for place in self.places:
            worker = place.worker
            await wait_until(lambda: worker.has_started, what="the start of a worker")  # noqa: B023
            worker.signal(signal.SIGTERM)
        codes = [await place.worker.ended(within=within) for place in self.places]
        return [f"a worker ended with {code} when it was stopped" for code in codes if code != 0]
