"""Puts a worker together from its handlers and settings."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import socket
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from convolab_worker._setting_types import parse_rate
from convolab_worker.bullmq.backend import Backend
from convolab_worker.bullmq.protocol.calls import Limiter
from convolab_worker.bullmq.reconcile import child_reason
from convolab_worker.connection.address import Address, Route
from convolab_worker.connection.client_names import NamedConnections, client_name
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.reconnect import Reconnection
from convolab_worker.connection.usage import CommandCounter, DailyBudget
from convolab_worker.errors import ReplyLost
from convolab_worker.telemetry.logging import Telemetry
from convolab_worker.telemetry.tracing import tracing
from convolab_worker.worker.dispatch.idle_backoff import Bounds
from convolab_worker.worker.dispatch.slots import Slots
from convolab_worker.worker.dispatch.waiting import Waiting
from convolab_worker.worker.dispatch.wake_signal import Signal
from convolab_worker.worker.execution.completer import JobCompleter
from convolab_worker.worker.execution.executor import Runner
from convolab_worker.worker.execution.handler_call import job_of_frame
from convolab_worker.worker.execution.progress import Reports
from convolab_worker.worker.locks import LockKeeper
from convolab_worker.worker.stack_reports import StackReports
from convolab_worker.worker.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.bullmq.outcome import Failed, Returned
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.handlers.registry import HandlerRegistry
    from convolab_worker.settings import Settings


_log = structlog.get_logger("convolab_worker")


@dataclass(slots=True, kw_only=True)
class Parts:
    """What an engine works with."""

    backend: Backend
    slots: Slots[ActiveJob]
    signal: Signal
    waiting: Waiting
    settlement: JobCompleter
    reconnection: Reconnection
    presence: NamedConnections
    keeper: LockKeeper
    runner: Runner
    telemetry: Telemetry
    stack_reports: StackReports
    counter: CommandCounter
    lock_counter: CommandCounter
    daily_budget: DailyBudget
    patience: float  # how long one turn of the engine takes at most, while Redis answers
    before_today: CommandCounter = field(default_factory=CommandCounter)
    held: dict[str, dict[str, ActiveJob]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def commands(self) -> CommandCounter:
        """Every command of this worker, by purpose."""
        return self.counter + self.lock_counter

    def keep_books(self, now: float) -> None:
        """Log the day's commands at its end, and once before that if the budget will not do."""
        billable = self.counter.billable + self.lock_counter.billable
        self.telemetry.recent_runs.counted(now, billable)
        report = self.daily_budget.check(now, billable)
        if report is None:
            return
        counts = {"used": report.used, "projected": report.projected, "budget": report.budget}
        if report.is_over:
            _log.warning("commands.over_budget", **counts)
        else:
            commands = self.commands
            by_purpose = (commands - self.before_today).snapshot()
            self.before_today = commands
            _log.info("commands.day", **counts, by_purpose=by_purpose)

    def hold(self, job: ActiveJob) -> None:
        """Keep a job that was taken: its lock, and its place in memory."""
        self.held[job.queue][job.id] = job
        self.keeper.hold(job)

    def let_go(self, job: ActiveJob) -> None:
        """Keep it no longer: it was settled."""
        self.keeper.release(job)
        if self.held[job.queue].get(job.id) is job:
            del self.held[job.queue][job.id]


def assemble(
    handlers: HandlerRegistry,
    settings: Settings,
    *,
    on_lost: Callable[[ActiveJob], None],
    on_cancelled: Callable[[ActiveJob, Failed | Returned], None],
) -> Parts:
    """Make every part of a worker; nothing is connected yet. To be called in the loop."""
    route = Route(Address.parse(settings.redis_url))
    loop, signal = asyncio.get_running_loop(), Signal()
    counter, lock_counter = CommandCounter(), CommandCounter()
    telemetry, stack_reports = Telemetry(time.time()), StackReports()
    connection = Connection(route, timeout=settings.command_timeout, counter=counter)
    blocking_connection = Connection(route, timeout=settings.command_timeout, counter=counter)
    for one, other in ((connection, blocking_connection), (blocking_connection, connection)):
        one.on_lost = functools.partial(_heard_loss, other, signal)
    backend = _backend(settings, connection, blocking_connection, counter)
    slots = _slots(handlers, settings)
    reconnection = Reconnection(connection, blocking_connection, where=str(route.address))
    held: dict[str, dict[str, ActiveJob]] = defaultdict(dict)
    lock_duration = settings.lock_duration
    keeper = LockKeeper(
        route,
        backend,
        lock_counter,
        lock_duration=lock_duration,
        on_lost=lambda job: _in_loop(loop, on_lost, job),
        on_cancelled=lambda job, asked: _in_loop(loop, on_cancelled, job, asked),
        on_look=Watchdog(loop, job_of_frame, stack_reports).look,
    )
    reports = Reports(backend, reconnection, counter, interval=settings.progress_interval)
    return Parts(
        backend=backend,
        slots=slots,
        signal=signal,
        waiting=Waiting(
            backend,
            slots,
            signal,
            waiting=blocking_connection,
            bounds=Bounds(shortest=settings.idle_min, longest=settings.idle_max),
            held_here=lambda queue: set(held[queue]),
            on_cancel=lambda queue, job_id: _doubt(keeper, held[queue].get(job_id)),
            max_stalled=settings.max_stalled_count,
            lock_duration=lock_duration,
        ),
        settlement=JobCompleter(
            backend, reconnection, lock_duration=lock_duration, may_reclaim=keeper.may_reclaim
        ),
        reconnection=reconnection,
        keeper=keeper,
        runner=Runner(
            handlers,
            reports,
            telemetry,
            stack_reports,
            functools.partial(child_reason, backend),
            tracing(settings, _worker_name(settings)),
        ),
        telemetry=telemetry,
        stack_reports=stack_reports,
        counter=counter,
        lock_counter=lock_counter,
        daily_budget=DailyBudget(settings.command_budget, time.time()),
        patience=3 * settings.command_timeout,
        held=held,
        presence=NamedConnections(
            route,
            _client_names(settings),
            own=(blocking_connection, connection),
            timeout=settings.command_timeout,
            counter=counter,
        ),
    )


def _backend(
    settings: Settings, connection: Connection, waiting: Connection, counter: CommandCounter
) -> Backend:
    return Backend(
        settings.queues,
        prefix=settings.prefix,
        connection=connection,
        waiting=waiting,
        counter=counter,
        worker_id=secrets.token_hex(8),
        worker_name=_worker_name(settings),
        lock_duration=settings.lock_duration,
        limiter=_limiter(settings.rate_limit),
        metrics_points=settings.metrics_points,
    )


def _worker_name(settings: Settings) -> str:
    return settings.worker_name or f"{socket.gethostname()}:{os.getpid()}"


def _client_names(settings: Settings) -> list[str]:
    """The names of connections by which Node's ``getWorkers()`` finds this worker, by queue."""
    queues = settings.queues if settings.listed == "on" else ()
    name = _worker_name(settings)
    return [client_name(settings.prefix, queue, name) for queue in queues]


def _limiter(rate: str | None) -> Limiter | None:
    if rate is None:
        return None
    parsed = parse_rate(rate)
    return Limiter(max=parsed.starts, duration=round(parsed.seconds * 1000))


def _slots(handlers: HandlerRegistry, settings: Settings) -> Slots[ActiveJob]:
    return Slots(
        settings.queues,
        concurrency=settings.concurrency,
        park_limit=settings.park_limit,
        handlers_of={q: [h.key for h in handlers.handlers_of(q)] for q in settings.queues},
        limits={h.key: h.concurrency for h in handlers if h.concurrency is not None},
        intervals={h.key: h.rate.interval for h in handlers if h.rate is not None},
        one_by_one=settings.rate_limit is not None,
    )


def _heard_loss(other: Connection, signal: Signal, error: Exception) -> None:
    """A connection went silent: the other one, to the same server, is no better."""
    if isinstance(error, ReplyLost) and error.silent:
        other.abort(str(error))
    signal.set()


def _in_loop(loop: asyncio.AbstractEventLoop, hear: Callable[..., None], *news: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody hears any more
        loop.call_soon_threadsafe(hear, *news)


def _doubt(keeper: LockKeeper, job: ActiveJob | None) -> None:
    if job is not None:  # otherwise it has ended in the meantime
        keeper.doubt(job)
