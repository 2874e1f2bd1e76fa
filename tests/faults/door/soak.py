"""``python -m tests.faults.door.soak``: a held worker that works while its server is attacked.

A client adds jobs and holds requests, one after the other; strangers flood, crowd and fuzz the
server all the while. In the end each job was counted in exactly one hold, and memory, descriptors
and tasks are where they were.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convolab_worker import JobClient, Settings
from convolab_worker.embedded import EmbeddedServer
from tests.faults.door.fuzz import mutated
from tests.faults.door.target import PATIENCE_SECONDS, Crowd, Target
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TOKEN = "soak-t0ken"
_QUEUE = "soak"
_JOBS_AT_ONCE = 20
_PAUSE_SECONDS = 0.02
_AUTHORIZED = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n"
# What may be more in the end than after the first tenth.
_MEMORY_GROWTH = 1.15
_DESCRIPTORS_LEFT = 5
_TASKS_LEFT = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at one moment; ``lag`` is the worker's loop's, in ms, the longest of a few."""

    at: float
    rss_mib: float
    descriptors: int
    tasks: int
    lag: float


@dataclass(slots=True)
class Account:
    """What the clients sent and saw."""

    jobs: int = 0
    holds: int = 0
    counted: int = 0
    probes: list[float] = field(default_factory=list)
    lost_probes: list[str] = field(default_factory=list)
    attacks: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)


class Soak:
    """One run against one target."""

    def __init__(self, target: Target, client: JobClient, seed: int) -> None:
        self._target = target
        self._client = client
        self._chance = random.Random(seed)
        self._ends_at = 0.0
        self.account = Account()

    async def run(self, seconds: float) -> None:
        """Work and attack for so long; then hold once more, so that nothing is left."""
        began = time.monotonic()
        self._ends_at = began + seconds
        await self._hold()
        self.account.samples.append(await self._sample(began))
        attacks: list[Callable[[], Awaitable[None]]] = [
            self._fuzz, self._crowd, self._idle, self._slow_heads, self._probe_flood,
            self._malformed, self._forged, self._half_close,
        ]  # fmt: skip
        async with asyncio.TaskGroup() as group:
            for attack in attacks:
                group.create_task(self._repeat(attack), name=attack.__name__)
            group.create_task(self._work(began, seconds / 20))
            group.create_task(self._probe())
        await self._hold()
        await wait_until(self._is_quiet, timeout=30, what="the end of the attackers' connections")
        await self._hold()
        self.account.samples.append(await self._sample(began))

    async def _repeat(self, attack: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() < self._ends_at:
            with contextlib.suppress(ConnectionError):  # hung up on, as strangers may be
                await attack()
            self.account.attacks[attack.__name__.lstrip("_")] += 1
            await asyncio.sleep(_PAUSE_SECONDS)

    # who belongs here

    async def _work(self, began: float, interval: float) -> None:
        sample_at = began + interval
        while time.monotonic() < self._ends_at:
            await self._client.enqueue_many([{"name": "work"}] * _JOBS_AT_ONCE)
            self.account.jobs += _JOBS_AT_ONCE
            await self._hold()
            if time.monotonic() >= sample_at:
                sample_at += interval
                self.account.samples.append(await self._sample(began))

    async def _hold(self) -> None:
        request = f"POST /wake?hold=20s HTTP/1.1\r\n{_AUTHORIZED}\r\n"
        (answer,) = await self._target.send(request.encode())
        result = json.loads(answer.body)
        assert (answer.status, result["status"]) == (200, "drained"), answer
        self.account.holds += 1
        self.account.counted += result["processed"]

    async def _sample(self, began: float) -> Sample:
        job_id = await self._client.enqueue("look", {})
        self.account.jobs += 1
        await self._hold()
        seen: Any = await self._client.result(job_id, timeout=20)
        process = Path(f"/proc/{self._target.process.pid}")
        pages = int((process / "statm").read_text().split()[1])
        return Sample(
            at=time.monotonic() - began,
            rss_mib=pages * 4 / 1024,
            descriptors=len(list((process / "fd").iterdir())),
            tasks=seen["tasks"],
            lag=seen["lag_ms"],
        )

    async def _probe(self) -> None:
        """Probe from a thread, so that what this loop has to do is not measured."""
        while time.monotonic() < self._ends_at:
            try:
                self.account.probes.append(await asyncio.to_thread(_probed, self._target.port))
            except (OSError, AssertionError) as error:
                self.account.lost_probes.append(repr(error))
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _is_quiet(self) -> bool:
        metrics = await self._target.metrics(f"Authorization: Bearer {TOKEN}")
        return metrics["http_connections",] <= 2

    # who does not

    async def _fuzz(self) -> None:
        await self._target.send(mutated(self._chance), half_close=True)

    async def _crowd(self) -> None:
        crowd = Crowd(self._target.port)
        try:
            await crowd.join(self._chance.randint(1, 400))
        finally:
            crowd.leave()

    async def _idle(self) -> None:
        crowd = Crowd(self._target.port)
        try:
            await crowd.join(50, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        finally:
            crowd.leave()

    async def _slow_heads(self) -> None:
        crowd = Crowd(self._target.port)
        try:
            await crowd.join(50, b"POST /wake HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            await asyncio.sleep(self._chance.random())
        finally:
            crowd.leave()

    async def _probe_flood(self) -> None:
        data = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        await self._target.send(20 * data, half_close=True)

    async def _malformed(self) -> None:
        await self._target.send(b"GET /\x00 HTTP/1.1\r\n\r\n")

    async def _forged(self) -> None:
        answer = await self._target.get("/wake?hold=1m", "Authorization: Bearer " + "x" * 7000)
        assert answer.status in {401, 429, 503}, answer

    async def _half_close(self) -> None:
        data = b"POST /wake?hold=1m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"
        await self._target.send(data, half_close=True)


def _probed(port: int) -> float:
    """Return how many seconds a probe took, from its connection to its answer."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = sock.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return time.monotonic() - began


def verdict(account: Account) -> list[str]:
    """Return what is not as it must be."""
    samples = account.samples
    first, last = samples[min(len(samples) // 10 + 1, len(samples) - 1)], samples[-1]
    wrong = []
    if account.counted != account.jobs:
        wrong.append(f"{account.jobs} jobs were added, and {account.counted} counted in holds")
    if account.lost_probes:
        wrong.append(
            f"probes without an answer: {len(account.lost_probes)}, as {account.lost_probes[0]}"
        )
    if last.rss_mib > _MEMORY_GROWTH * first.rss_mib:
        wrong.append(f"memory grew from {first.rss_mib:.1f} to {last.rss_mib:.1f} MiB")
    if last.descriptors > samples[0].descriptors + _DESCRIPTORS_LEFT:
        wrong.append(f"descriptors: {samples[0].descriptors}, and {last.descriptors} in the end")
    if last.tasks > samples[0].tasks + _TASKS_LEFT:
        wrong.append(f"tasks: {samples[0].tasks}, and {last.tasks} in the end")
    return wrong


def table(account: Account) -> str:
    """Return the samples and sums as text."""
    lines = [f"{'s':>6} {'RSS MiB':>8} {'fds':>5} {'tasks':>6} {'lag ms':>7}"]
    lines += [
        f"{one.at:6.0f} {one.rss_mib:8.1f} {one.descriptors:5} {one.tasks:6} {one.lag:7.1f}"
        for one in account.samples
    ]
    probes = sorted(seconds * 1000 for seconds in account.probes)
    late = probes[len(probes) * 99 // 100]
    median = statistics.median(probes)
    attacks = ", ".join(f"{what} {times}" for what, times in account.attacks.items())
    lines += [
        f"jobs: {account.jobs}, counted in {account.holds} holds: {account.counted}",
        f"probes: {len(probes)}, median {median:.1f} ms, p99 {late:.1f}, worst {probes[-1]:.1f}",
        f"attacks: {attacks}",
    ]
    return "\n".join(lines)


async def soak(redis_url: str, log: Path, *, seconds: float, seed: int) -> Account:
    """Run it on a worker of its own; fails where its log has a trouble or a secret."""
    variables = {
        "CONVOLAB_WAKE_TOKEN": TOKEN,
        "CONVOLAB_WAKE_MODE": "held",
        "CONVOLAB_WAKE_RATE": "2000",
    }
    async with Target(redis_url, _QUEUE, log, descriptors="1024", **variables) as target:
        async with JobClient(Settings(redis_url=redis_url, queues=(_QUEUE,))) as client:
            run = Soak(target, client, seed)
            await run.run(seconds)
        assert not target.troubles(), target.troubles()[:3]
        assert TOKEN not in target.process.text()
    return run.account


def main(seconds: float, seed: int) -> int:
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as folder:
        account = asyncio.run(soak(server.url, Path(folder) / "log", seconds=seconds, seed=seed))
    wrong = verdict(account)
    sys.stdout.write("\n".join([table(account), *wrong]) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A worker at work while its server is attacked.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=20)
    given = parser.parse_args()
    sys.exit(main(given.seconds, given.seed))
