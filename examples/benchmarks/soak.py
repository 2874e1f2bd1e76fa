"""Half an hour of jobs at random times, and how long they wait here and with Node's own worker.

This worker and bullmq's Node workers, one for each queue, run side by side, each on a private
Valkey of its own, with as many slots in all. One producer adds the same jobs at the same random
times to both: alone, delayed, and in bulk, with gaps that are sometimes longer than the longest
wait. A job's wait is from the moment it could start (added, or due) to the first line of its
handler. The end is a verdict: no job waited longer than Node's worst plus 20 ms.

    python examples/benchmarks/soak.py --minutes 30 --idle-max 20s --json soak.json
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from convolab_worker.settings.units import parse_duration
from examples.benchmarks.benchkit.process import (
    BULLMQ_NODE,
    OURS,
    BenchmarkError,
    Contender,
    Producer,
    WorkerProcess,
)
from examples.benchmarks.benchkit.report import progress, quantile, say, table, write_json
from examples.benchmarks.benchkit.schedule import Event, schedule
from examples.benchmarks.benchkit.server import PrivateServer

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALLOWANCE_MS = 20.0
# Both get the same event this long after each other, in turns: neither takes the CPU from the
# other at the moment that is measured.
_APART_SECONDS = 0.25
_WARM_UP_JOBS = 100
_LAST_START_SECONDS = 30.0
_TELL_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """How long jobs of one kind waited with one contender, in milliseconds."""

    contender: str
    kind: str
    jobs: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


class Side:
    """One contender at work on its own server, and how long each of its jobs waited."""

    def __init__(
        self,
        stack: ExitStack,
        producer: Producer,
        contender: Contender,
        queues: Sequence[str],
        *,
        concurrency: int,
        options: dict[str, object],
    ) -> None:
        """Start the server and the worker, and warm both up; ``stack`` ends them."""
        self.contender = contender
        self._producer = producer
        self._server = stack.enter_context(PrivateServer())
        for queue in queues:
            producer.open(self._server.url, queue)
        stack.callback(producer.leave, self._server.url)
        self._others = frozenset(self._server.connections())
        self._worker = stack.enter_context(
            WorkerProcess(
                contender, self._server.url, *queues, concurrency=concurrency, options=options
            )
        )
        self.waits: dict[int, float] = {}
        for queue in queues:
            warm_up = [{"number": number, "delay": 0} for number in range(_WARM_UP_JOBS)]
            producer.batch(self._server.url, queue, warm_up)
            self.collect(_WARM_UP_JOBS)
            self.waits.clear()
        self._before = self._server.usage()

    def add(self, event: Event) -> None:
        """Add an event's jobs."""
        jobs = [
            {"number": number, "delay": delay}
            for number, delay in zip(event.numbers, event.delays_ms, strict=True)
        ]
        self._producer.batch(self._server.url, event.queue, jobs)

    def collect(self, jobs: int) -> None:
        """Wait until ``jobs`` jobs have started."""
        while len(self.waits) < jobs:
            started = self._worker.poll_started(timeout=_LAST_START_SECONDS)
            if started is None:
                what = f"has started {len(self.waits)} of {jobs} jobs, and no more came"
                raise BenchmarkError(self._worker.told(what))
            number, waited = started
            if number in self.waits:
                raise BenchmarkError(self._worker.told(f"has started job {number} twice"))
            self.waits[number] = waited

    def billable(self) -> int:
        """Commands of the worker's connections since its start, those inside Lua included."""
        return self._server.usage().since(self._before, ignore=self._others).commands


def play(events: Sequence[Event], sides: Sequence[Side], seconds: float) -> None:
    """Add every event's jobs to both sides at its time, and end when the time is over."""
    start = time.monotonic()
    plan = sorted(
        (event.at + place * _APART_SECONDS, number, side)
        for number, event in enumerate(events)
        for place, side in enumerate(_in_turns(number))
    )
    told = 0.0
    for at, number, side in plan:
        time.sleep(max(0.0, start + at - time.monotonic()))
        sides[side].add(events[number])
        if at - told >= _TELL_SECONDS:
            told = at
            jobs = events[number].numbers[-1] + 1
            progress(f"{at / 60:.0f} of {seconds / 60:g} minutes, {jobs:,} jobs")
    time.sleep(max(0.0, start + seconds - time.monotonic()))


def _in_turns(number: int) -> tuple[int, int]:
    return (0, 1) if number % 2 == 0 else (1, 0)


def waited(side: Side, events: Sequence[Event]) -> list[Waited]:
    """Put the waits together, all jobs first and then by kind."""
    kinds: dict[str, list[float]] = {"all": []}
    for event in events:
        waits = [side.waits[number] for number in event.numbers]
        kinds["all"] += waits
        kinds.setdefault(event.kind.value, []).extend(waits)
    return [
        Waited(
            contender=side.contender.label,
            kind=kind,
            jobs=len(waits),
            p50_ms=quantile(waits, 0.5),
            p99_ms=quantile(waits, 0.99),
            worst_ms=max(waits),
        )
        for kind, waits in kinds.items()
    ]


def report(rows: Sequence[Waited]) -> str:
    """Lay the waits out as a table."""
    headings = ("worker, jobs", "count", "p50 ms", "p99 ms", "worst ms")
    return table(
        headings,
        [
            (
                f"{row.contender}, {row.kind}",
                row.jobs,
                f"{row.p50_ms:.2f}",
                f"{row.p99_ms:.2f}",
                f"{row.worst_ms:.2f}",
            )
            for row in rows
        ],
    )


def _verdict(ours: Side, node: Side) -> tuple[bool, str]:
    allowed = max(node.waits.values()) + _ALLOWANCE_MS
    late = [waited for waited in ours.waits.values() if waited > allowed]
    word = "FAILED" if late else "PASSED"
    return not late, (
        f"{word}: {len(late)} of {len(ours.waits):,} jobs waited longer than Node's worst "
        f"plus {_ALLOWANCE_MS:g} ms ({allowed:.2f} ms)"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long jobs arrive")
    parser.add_argument(
        "--idle-max", type=parse_duration, default=20.0, help="this worker's longest wait"
    )
    parser.add_argument("--queues", type=int, default=4, help="queues of each contender")
    parser.add_argument(
        "--concurrency", type=int, default=10, help="slots for each queue (this worker's shared)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return parser.parse_args()


def main() -> int:
    """Measure, print table and verdict, write the JSON where asked; 1 if jobs were late."""
    options = _options()
    seconds = options.minutes * 60
    queues = [f"soak-{number}" for number in range(1, options.queues + 1)]
    events = schedule(options.seed, seconds, queues)
    jobs = sum(len(event.numbers) for event in events)
    each, idle = options.concurrency, {"idle_max": options.idle_max}
    with ExitStack() as stack:
        producer = stack.enter_context(Producer())
        ours = Side(stack, producer, OURS, queues, concurrency=each * len(queues), options=idle)
        node = Side(stack, producer, BULLMQ_NODE, queues, concurrency=each, options={})
        progress(f"{jobs:,} jobs in {len(events):,} calls over {options.minutes:g} minutes")
        play(events, (ours, node), seconds)
        for side in (ours, node):
            side.collect(jobs)
        rows = [row for side in (ours, node) for row in waited(side, events)]
        billable = {side.contender.label: side.billable() for side in (ours, node)}
    passed, verdict = _verdict(ours, node)
    say(report(rows))
    say()
    for label, commands in billable.items():
        say(f"{label}: {commands:,} billable commands, {commands / jobs:.1f} a job")
    say(verdict)
    if options.json:
        write_json(
            options.json,
            {
                "minutes": options.minutes,
                "idle_max": options.idle_max,
                "seed": options.seed,
                "passed": passed,
                "verdict": verdict,
                "rows": [asdict(row) for row in rows],
                "billable": billable,
                "waits_ms": {side.contender.label: side.waits for side in (ours, node)},
                "events": [asdict(event) for event in events],
            },
        )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
