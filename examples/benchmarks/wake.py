"""What a wake costs: from /wake to the first handler, hot and asleep, and under a flood.

One worker service, ``run --wake``, in a process of its own, on a private Valkey. Hot: at rest, its
connections open, as between two requests on Cloud Run. Asleep: its connections closed. The flood is
so many wakes a second, with and without a token, while jobs come one at a time. ``cold_start.py``
starts the process for each wake.

    python examples/benchmarks/wake.py --flood 60 --json wake.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from aiohttp import ClientConnectionError, ClientSession, ServerDisconnectedError

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from convolab_worker import JobClient, Settings
from examples.benchmarks.benchkit.process import BenchmarkError, resident
from examples.benchmarks.benchkit.report import progress, quantile, say, table, write_json
from examples.benchmarks.benchkit.server import PrivateServer, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_QUEUE = "wake"
_TOKEN = "t0ken"  # noqa: S105 - of a service that lives for a minute, on loopback
_START_SECONDS = 30.0
_CALLERS = 8
_JOB_PAUSE_SECONDS = 0.05
_JOBS = """
import time
from convolab_worker import HandlerRegistry

handlers = HandlerRegistry()

@handlers.audio("now")
async def now(job):
    return time.time()
"""
_MOST_HOT_MS = 10.0


class Service:
    """A worker service that runs."""

    def __init__(self, server: PrivateServer, folder: Path, **variables: str) -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [*(sys.executable, "-m", "convolab_worker", "run", "--wake"), "--app", "jobs:handlers"],
            cwd=folder,
            env={
                **os.environ,
                "REDIS_URL": server.url,
                "CONVOLAB_QUEUES": _QUEUE,
                "CONVOLAB_WAKE_RATE": "1000000",
                "PORT": str(self.port),
                "LOG_LEVEL": "warning",
                **variables,
            },
        )

    async def wake(self, session: ClientSession, **headers: str) -> dict[str, Any]:
        """Ask for a wake as soon as the service listens; what it answers."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                async with session.post(f"{self.base}/wake", headers=headers) as answer:
                    said: dict[str, Any] = await answer.json()
                    return said
            except (ClientConnectionError, ServerDisconnectedError):
                await asyncio.sleep(0.002)
        message = f"the service did not listen within {_START_SECONDS:g} s"
        raise BenchmarkError(message)

    def end(self) -> None:
        """Stop it, and wait for that."""
        self.process.terminate()
        self.process.wait(20)


@contextlib.asynccontextmanager
async def service(server: PrivateServer, **variables: str) -> AsyncIterator[Service]:
    """Run a service with one handler."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "jobs.py").write_text(_JOBS, encoding="utf-8")
        running = Service(server, Path(folder), **variables)
        try:
            yield running
        finally:
            running.end()


async def awaked(server: PrivateServer, rounds: int, *, pause: float, sleep: str) -> list[float]:
    """Milliseconds from a wake to the handler, the job being there before; for each round."""
    delays = []
    settings = Settings(redis_url=server.url, queues=(_QUEUE,))
    async with (
        service(server, K_SERVICE="worker", CONVOLAB_SLEEP_AFTER=sleep) as running,
        JobClient(settings) as client,
        ClientSession() as session,
    ):
        await running.wake(session)
        for _ in range(rounds + 1):
            await asyncio.sleep(pause)
            job_id = await client.enqueue("now", {})
            began = time.time()
            await running.wake(session)
            delays.append(1000 * (await client.result(job_id, timeout=10) - began))
    return delays[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """Jobs that came one at a time beside a flood of wakes, and what it cost."""

    name: str
    wakes_a_second: float
    commands_a_second: float
    job_ms: float
    job_p99_ms: float
    memory_growth_mb: float


async def flood(
    server: PrivateServer, name: str, *, rate: int, seconds: float, token: str | None
) -> Flood:
    """Wake at that rate; commands are counted while no job comes, and jobs timed afterwards."""
    variables = {"CONVOLAB_WAKE_TOKEN": token} if token else {}
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    settings = Settings(redis_url=server.url, queues=(_QUEUE,))
    async with (
        service(server, **variables) as running,
        JobClient(settings) as client,
        ClientSession() as session,
    ):
        await running.wake(session, **headers)
        calls = _Calls(running, session, headers, rate)
        async with calls:
            await asyncio.sleep(min(3.0, seconds / 2))  # every connection is open, every cache full
            memory = resident(running.process.pid)
            commands, woken, began = _commands(server), calls.answered, time.monotonic()
            await asyncio.sleep(seconds / 2)
            lasted = time.monotonic() - began
            commands, woken = _commands(server) - commands, calls.answered - woken
            delays = await _jobs(client, seconds / 2)
            grown = resident(running.process.pid) - memory
    return Flood(
        name=name,
        wakes_a_second=woken / lasted,
        commands_a_second=(commands - 1) / lasted,  # one INFO of our own
        job_ms=median(delays),
        job_p99_ms=quantile(delays, 0.99),
        memory_growth_mb=grown / 1e6,
    )


class _Calls:
    """Callers that together send ``rate`` wakes a second."""

    def __init__(
        self, running: Service, session: ClientSession, headers: dict[str, str], rate: int
    ) -> None:
        self._url, self._session, self._headers = f"{running.base}/wake", session, headers
        self._pause = _CALLERS / rate if rate else 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self.answered = 0

    async def __aenter__(self) -> None:
        """Begin, unless the rate is 0."""
        if self._pause:
            self._tasks = [asyncio.create_task(self._call(n)) for n in range(_CALLERS)]

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise BenchmarkError(repr(ended))

    async def _call(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + number * self._pause / _CALLERS
        while True:
            await asyncio.sleep(max(at - loop.time(), 0))
            async with self._session.get(self._url, headers=self._headers) as answer:
                if answer.status != 202:
                    message = f"expected 202, got {answer.status}"
                    raise BenchmarkError(message)
            self.answered += 1
            at = max(at + self._pause, loop.time() - 1)


async def _jobs(client: JobClient, seconds: float) -> list[float]:
    """Milliseconds from add to handler, for jobs that come one at a time."""
    delays, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.time()
        job_id = await client.enqueue("now", {})
        delays.append(1000 * (await client.result(job_id, timeout=10) - began))
        await asyncio.sleep(_JOB_PAUSE_SECONDS)
    return delays


def _commands(server: PrivateServer) -> int:
    return int(server.admin.info("stats")["total_commands_processed"])


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Do everything, one after the other."""
    with PrivateServer() as server:
        progress("hot and asleep")
        hot = await awaked(server, options.rounds, pause=1.1, sleep="1h")
        asleep = await awaked(server, options.rounds, pause=1.1, sleep="50ms")
        floods = []
        for name, rate, token in (
            ("none", 0, None),
            ("open", options.rate, None),
            ("token", options.rate, _TOKEN),
        ):
            progress(f"flood: {name}")
            floods.append(
                asdict(await flood(server, name, rate=rate, seconds=options.flood, token=token))
            )
    return {"hot": hot, "asleep": asleep, "floods": floods}


def report(found: dict[str, Any]) -> None:
    """Print the tables, and whether the bounds are kept."""
    rows = [
        (name, median(found[name]), quantile(found[name], 0.9), max(found[name]))
        for name in ("hot", "asleep")
    ]
    say(table(("to the first handler, ms", "p50", "p90", "worst"), rows))
    say()
    headings = ("flood", "wakes/s", "commands/s", "job p50 ms", "job p99 ms", "memory, MB more")
    say(table(headings, [list(each.values()) for each in found["floods"]]))
    say()
    say(f"hot {median(found['hot']):.1f} ms, of {_MOST_HOT_MS:g} at most")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15, help="wakes of each kind")
    parser.add_argument("--rate", type=int, default=1000, help="wakes a second of the flood")
    parser.add_argument("--flood", type=float, default=60.0, metavar="SECONDS", help="its length")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write the JSON where asked."""
    options = _options()
    found = asyncio.run(measure(options))
    report(found)
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
