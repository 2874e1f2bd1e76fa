"""Runs idle workers, each beside a server of its own, and counts what they send."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from examples.benchmarks.benchkit.monitor import CommandCount, MonitorTap, SeenCommand, count
from examples.benchmarks.benchkit.process import WorkerProcess
from examples.benchmarks.benchkit.scenarios import Day
from examples.benchmarks.benchkit.server import PrivateServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from examples.benchmarks.benchkit.process import Producer
    from examples.benchmarks.benchkit.scenarios import Scenario

_SETTLE_SECONDS = 3.0
_BETWEEN_ADDS = 0.25
_PATIENCE = 1.0
_LONGEST_PICK_UP = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """What one worker did in the measured time; moments in seconds from its start."""

    scenario: Scenario
    seconds: float
    count: CommandCount
    billable_by_server: int
    """The same window by the server's own counters, as a check on the count."""

    blocks: list[float]
    sent: list[float]
    billable: list[float]


class IdleWorker:
    """One scenario in operation: its server, its worker, and a tap on what it sends."""

    def __init__(self, stack: ExitStack, scenario: Scenario, producer: Producer) -> None:
        """Start the server and the worker; ``stack`` ends both."""
        self.scenario = scenario
        self._producer = producer
        # An idle server looks for ended blocks ten times a second: too seldom for scaled times.
        directives = {"hz": "500"} if scenario.day is Day.SCALED else {}
        self.server = stack.enter_context(PrivateServer(**directives))
        for queue in scenario.queue_names:
            producer.open(self.server.url, queue)
            if scenario.paused:
                producer.pause(self.server.url, queue)
        stack.callback(producer.leave, self.server.url)
        self._tap = stack.enter_context(MonitorTap(self.server.port))
        connections = self.server.connections()
        self._others = frozenset(connections)
        self._addresses = frozenset(fields["addr"] for fields in connections.values())
        worker = WorkerProcess(
            scenario.contender,
            self.server.url,
            *scenario.queue_names,
            concurrency=scenario.concurrency,
            options=scenario.options,
        )
        self.worker = stack.enter_context(worker)
        self.pending = False
        self.pick_ups: list[float] = []

    def begin(self) -> None:
        """Start the measured time, with the scenario's delayed job as its first event."""
        self._start = self._tap.mark()
        self._started_at = time.time()
        self._usage = self.server.usage()
        if self.scenario.delay_ms:
            queue = self.scenario.queue_names[0]
            self._producer.add(self.server.url, queue, delay_ms=self.scenario.delay_ms)

    def end(self) -> Idle:
        """End the measured time and give what was counted."""
        seconds = time.time() - self._started_at
        used = self.server.usage().since(self._usage, ignore=self._others)
        commands = [
            command
            for command in self._tap.between(self._start, self._tap.mark())
            if command.client not in self._addresses
        ]
        return Idle(
            scenario=self.scenario,
            seconds=seconds,
            count=count(commands, ignore=self._addresses),
            billable_by_server=used.commands,
            blocks=self._moments([c for c in commands if c.name == "bzpopmin"]),
            sent=self._moments([c for c in commands if not c.scripted]),
            billable=self._moments(commands),
        )

    def add(self) -> None:
        """Add a job to one of the queues, unless the last one still waits."""
        if self.pending:
            self._collect(0.0)
        if not self.pending:
            queue = random.choice(self.scenario.queue_names)
            self._producer.add(self.server.url, queue)
            self.pending = True
            self._collect(_PATIENCE)

    def finish(self) -> None:
        """Wait for a job that has not been picked up yet."""
        if self.pending:
            self._collect(_LONGEST_PICK_UP)

    def _collect(self, patience: float) -> None:
        delay = self.worker.poll_start(timeout=patience)
        if delay is not None:
            self.pick_ups.append(delay)
            self.pending = False

    def _moments(self, commands: list[SeenCommand]) -> list[float]:
        return [command.at - self._started_at for command in commands]


def idle_side_by_side(workers: Sequence[IdleWorker], seconds: float) -> list[Idle]:
    """Let all workers idle at once for that long, and count."""
    time.sleep(_SETTLE_SECONDS)
    for worker in workers:
        worker.begin()
    time.sleep(seconds)
    return [worker.end() for worker in workers]


def measure_pick_ups(workers: Sequence[IdleWorker], jobs: int) -> None:
    """Add jobs to the idle workers in turn, so that each has been idle for seconds again.

    One worker at a time has work: none disturbs another. A worker that does not listen is not
    waited for, and gets fewer jobs.
    """
    taking_part = [worker for worker in workers if worker.scenario.latency]
    # At least some seconds of idle between two jobs of one worker, however few take part.
    pause = max(_BETWEEN_ADDS, 2.0 / max(1, len(taking_part)))
    for _ in range(jobs):
        for worker in taking_part:
            # Not in step with any worker's own period.
            time.sleep(pause * random.uniform(0.5, 1.5))
            worker.add()
    for worker in taking_part:
        worker.finish()
