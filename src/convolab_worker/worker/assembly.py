"""Makes a worker's parts from its handlers and settings, in the loop that they belong to."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from convolab_worker._logs import Log
from convolab_worker.bullmq.protocol.keywords import job_options
from convolab_worker.bullmq.protocol.transitions import Limiter
from convolab_worker.bullmq.worker_side.backend import Backend
from convolab_worker.bullmq.worker_side.reconcile import child_reason
from convolab_worker.connection.commands.usage import CommandCounter
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.route import Route
from convolab_worker.connection.source import ServerSource
from convolab_worker.connection.upkeep.client_names import NamedConnections, client_name
from convolab_worker.connection.upkeep.key_changes import KeyChanges
from convolab_worker.connection.upkeep.reconnect import Reconnection
from convolab_worker.errors import ReplyLost
from convolab_worker.handlers.job.steps.limits import StepLimits
from convolab_worker.settings.units import parse_rate
from convolab_worker.telemetry.metrics import CommandUsage, Metrics
from convolab_worker.telemetry.tracing import tracing
from convolab_worker.worker.dispatch.dispatcher import Dispatcher
from convolab_worker.worker.dispatch.listener import Wakeup
from convolab_worker.worker.dispatch.queue_table import QueueTable
from convolab_worker.worker.dispatch.slots import Slots
from convolab_worker.worker.execution.completer import JobCompleter
from convolab_worker.worker.execution.executor import JobExecutor, JobInHand
from convolab_worker.worker.execution.handler_call import LOCK_LOST, cancellation, job_of_frame
from convolab_worker.worker.execution.losses import Isolation
from convolab_worker.worker.execution.progress import ReportWriter
from convolab_worker.worker.locks import LockKeeper
from convolab_worker.worker.next_due import NextDue
from convolab_worker.worker.suspension import IdlePolicy
from convolab_worker.worker.tally import Tally
from convolab_worker.worker.watchdog import StackReports, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.settings import Settings

# A frozen process can't close its connections, so they are closed this early; opening them again
# takes a round trip.
_HELD_SLEEP_AFTER_SECONDS = 10.0

_log = Log()


class Assembly(Struct, frozen=True, kw_only=True):
    """The parts that a worker starts and ends; only the worker has them all."""

    dispatcher: Dispatcher
    executor: JobExecutor
    table: QueueTable
    tally: Tally
    next_due: NextDue
    keeper: LockKeeper[JobInHand]
    reconnection: Reconnection
    names: NamedConnections
    usage: CommandUsage


def assemble(handlers: HandlerRegistry, settings: Settings) -> Assembly:
    """Make every part of a worker; nothing is connected yet. To be called in the loop."""
    route, counter, lock_counter = _route(settings), CommandCounter(), CommandCounter()
    loop, wakeup = asyncio.get_running_loop(), Wakeup()
    connections = [_connection(route, settings, counter) for _ in range(2)]
    changes = KeyChanges(_connection(route, settings, counter))
    backend = _backend(settings, connections, changes)
    reconnection = Reconnection(*connections, where=str(route.source), route=route)
    metrics, stack_reports = Metrics(time.time()), StackReports()
    isolation = Isolation(Connection(route, timeout=settings.command_timeout, counter=counter))
    writer = ReportWriter(
        backend,
        reconnection,
        counter,
        interval=settings.progress_interval,
        step_limits=StepLimits.of(settings),
        may_reclaim=lambda held: keeper.may_reclaim(held),  # noqa: PLW0108 - it is made below
        isolation=isolation,
        max_size=settings.max_command_size,
    )
    executor = JobExecutor(
        handlers,
        writer.reporter,
        metrics,
        stack_reports,
        functools.partial(child_reason, backend),
        tracing(settings, worker_name(settings)),
        job_options(
            "Settings",
            {"keep_completed": settings.keep_completed, "keep_failed": settings.keep_failed},
        ),
        log_traceback=settings.log_traceback,
    )
    keeper = LockKeeper(
        route,
        backend,
        lock_counter,
        executor.jobs,
        lock_duration=settings.lock_duration,
        on_lost=lambda held: _in_loop(loop, dispatcher.fetcher.abort, held, LOCK_LOST),
        on_cancelled=lambda held, asked: _in_loop(
            loop, dispatcher.fetcher.abort, held, cancellation(asked)
        ),
        on_look=Watchdog(loop, job_of_frame, stack_reports).look,
    )
    completer = JobCompleter(
        backend,
        reconnection,
        lock_duration=settings.lock_duration,
        may_reclaim=keeper.may_reclaim,
        isolation=isolation,
        max_size=settings.max_command_size,
    )
    usage = CommandUsage(
        counter,
        lock_counter,
        budget=settings.command_budget,
        now=time.time(),
    )
    table, next_due = _table(handlers, settings), NextDue(handlers.next_due_hooks)
    dispatcher = Dispatcher(
        backend,
        table,
        executor,
        completer,
        keeper,
        reconnection,
        usage=usage,
        wakeup=wakeup,
        settings=settings,
        policy=idle_policy(settings),
    )
    if handlers.next_due_hooks.functions:
        dispatcher.suspension.tell_due = next_due.tell
    for one, other in (connections, connections[::-1]):
        one.on_lost = functools.partial(_connection_lost, other, wakeup, dispatcher)
    return Assembly(
        dispatcher=dispatcher,
        executor=executor,
        table=table,
        tally=Tally(dispatcher, executor.metrics),
        next_due=next_due,
        keeper=keeper,
        reconnection=reconnection,
        names=_names(settings, route, connections, counter),
        usage=usage,
    )


def idle_policy(settings: Settings) -> IdlePolicy:
    """When a worker with these settings is suspended."""
    if settings.wake_mode != "held":
        return IdlePolicy(sleep_after=settings.sleep_after)
    patience = settings.sleep_after
    return IdlePolicy(
        works_when_held=True,
        sleep_after=_HELD_SLEEP_AFTER_SECONDS if patience is None else patience,
        linger=settings.wake_linger,
    )


def worker_name(settings: Settings) -> str:
    return settings.worker_name or f"{socket.gethostname()}:{os.getpid()}"


def _route(settings: Settings) -> Route:
    return Route(ServerSource.of(settings), prefix=settings.prefix)


def _connection(route: Route, settings: Settings, counter: CommandCounter) -> Connection:
    return Connection(route, timeout=settings.command_timeout, counter=counter)


def _backend(settings: Settings, connections: list[Connection], changes: KeyChanges) -> Backend:
    limiter = None
    if settings.rate_limit is not None:
        rate = parse_rate(settings.rate_limit)
        limiter = Limiter(max=rate.starts, duration=round(rate.seconds * 1000))
    connection, blocking = connections
    return Backend(
        settings.queues,
        prefix=settings.prefix,
        connection=connection,
        waiting=blocking,
        changes=changes,
        worker_id=os.urandom(8).hex(),
        worker_name=worker_name(settings),
        lock_duration=settings.lock_duration,
        limiter=limiter,
        metrics_points=settings.metrics_points,
    )


def _table(handlers: HandlerRegistry, settings: Settings) -> QueueTable:
    slots: Slots[JobInHand] = Slots(
        concurrency=settings.concurrency,
        park_limit=settings.park_limit,
        handlers_of={q: [h.key for h in handlers.handlers_of(q)] for q in settings.queues},
        limits={h.key: h.concurrency for h in handlers if h.concurrency is not None},
        intervals={h.key: h.rate.interval for h in handlers if h.rate is not None},
    )
    return QueueTable(
        settings.queues,
        slots,
        one_by_one=settings.rate_limit is not None,
        longest_full=settings.idle_max,
    )


def _names(
    settings: Settings, route: Route, own: list[Connection], counter: CommandCounter
) -> NamedConnections:
    """Connections with the names by which Node's ``getWorkers()`` finds this worker, by queue."""
    queues = settings.queues if settings.listed == "on" else ()
    name = worker_name(settings)
    return NamedConnections(
        route,
        [client_name(settings.prefix, queue, name) for queue in queues],
        own=own[::-1],
        timeout=settings.command_timeout,
        counter=counter,
    )


def _connection_lost(
    other: Connection, wakeup: Wakeup, dispatcher: Dispatcher, error: Exception
) -> None:
    """A connection was lost: if it fell silent, the other one to that server is lost, too.

    A suspended worker connects again when it has work; until then nothing else logs the loss.
    """
    if dispatcher.is_at_rest and other.is_open:  # once for both
        _log.warning("redis.lost", error=str(error))
    if isinstance(error, ReplyLost) and error.silent:
        other.abort(str(error))
    wakeup.set()


def _in_loop(loop: asyncio.AbstractEventLoop, hear: Callable[..., None], *news: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed
        loop.call_soon_threadsafe(hear, *news)
