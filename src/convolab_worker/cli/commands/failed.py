"""``failed``: jobs that have failed for good: listed, shown, tried again, removed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.cli.output import Bar, as_json, described, remark, result, table
from convolab_worker.cli.wake_service import awake
from convolab_worker.client import jobs as failed_jobs
from convolab_worker.client.client import JobClient
from convolab_worker.client.jobs import BATCH, DONE, Failure, Wanted
from convolab_worker.connection.address import Address
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.usage import CommandCounter, Purpose
from convolab_worker.errors import ConfigurationError, JobNotFound
from convolab_worker.telemetry.logging import configure_logging

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable, Coroutine

    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.settings import Settings

_LONGEST_REASON = 80  # in the table; --json and show have all of it


def wanted(given: argparse.Namespace) -> Wanted:
    """Which jobs the flags mean. Raises ConfigurationError for a pattern that is none."""
    try:
        reason = None if given.reason is None else failed_jobs.reason_pattern(given.reason)
    except ValueError as error:
        msg = f"--reason {given.reason}: expected {error}"
        raise ConfigurationError(msg) from None
    return Wanted(
        ids=tuple(getattr(given, "ids", ())),
        names=tuple(given.names),
        older_than=given.older_than,
        newer_than=given.newer_than,
        reason=reason,
    )


def show_list(settings: Settings, wanted: Wanted, *, limit: int, as_lines: bool) -> int:
    """Print the newest failed jobs, a line each."""
    configure_logging(settings.log_level, settings.log_format)
    found = asyncio.run(_newest(settings, wanted, limit))
    if as_lines:
        for failure in found:
            result(as_json(failure._asdict()))
        return 0
    if not found:
        result("no failed job fits")
        return 0
    rows = [
        [f.queue, f.id, f.name, _when(f.failed_at), f.attempts, _short(f.reason)] for f in found
    ]
    result(table([["queue", "id", "name", "failed", "attempts", "reason"], *rows]))
    return 0


def show(settings: Settings, job_id: str, *, as_lines: bool) -> int:
    """Print one failed job, with its stack traces."""
    configure_logging(settings.log_level, settings.log_format)
    told = asyncio.run(_one(settings, job_id))
    result(as_json(told) if as_lines else described(told))
    return 0


def retry(
    settings: Settings, wanted: Wanted, *, everything: bool, dry_run: bool, reset_attempts: bool
) -> int:
    """Put failed jobs back into their queues, and wake the service that runs them."""

    def call(keys: QueueKeys, failure: Failure) -> Call:
        return failed_jobs.retry_call(keys, failure, reset_attempts=reset_attempts)

    outcomes: Counter[str] = Counter()
    try:
        _act(settings, wanted, "retried", call, outcomes, everything=everything, dry_run=dry_run)
    finally:  # also for the jobs before one that could not be retried
        if outcomes[DONE] and not dry_run:
            asyncio.run(awake(settings, "the jobs were retried"))
    return 0


def remove(settings: Settings, wanted: Wanted, *, everything: bool, dry_run: bool) -> int:
    """Remove failed jobs, with all that is known of them."""
    call = failed_jobs.remove_call
    _act(settings, wanted, "removed", call, Counter(), everything=everything, dry_run=dry_run)
    return 0


def _act(
    settings: Settings,
    wanted: Wanted,
    what: str,
    call: Callable[[QueueKeys, Failure], Call],
    outcomes: Counter[str],
    *,
    everything: bool,
    dry_run: bool,
) -> None:
    """Tell what was done, and count it in ``outcomes``."""
    configure_logging(settings.log_level, settings.log_format)
    if wanted.is_everything and not everything:
        msg = "every failed job is meant: expected ids, a filter such as --name, or --all"
        raise ConfigurationError(msg)
    try:
        asyncio.run(_carry_out(settings, wanted, call, outcomes, dry_run=dry_run))
    except KeyboardInterrupt:
        remark(f"stopped: {outcomes[DONE]} jobs were {what}, each of them whole; run it again")
        raise
    done = outcomes[DONE]
    result(f"{done} job{'' if done == 1 else 's'} {'would be ' if dry_run else ''}{what}")
    for why, count in outcomes.items():
        if why != DONE:
            remark(f"{count} not: {why}")


async def _carry_out(
    settings: Settings,
    wanted: Wanted,
    call: Callable[[QueueKeys, Failure], Call],
    outcomes: Counter[str],
    *,
    dry_run: bool,
) -> None:
    """Act on the oldest first, so that their order is kept; what fails later is left alone."""
    missing = {*wanted.ids}
    async with _connection(settings) as connection:
        for queue in settings.queues:
            keys = QueueKeys(settings.prefix, queue)
            meant = [
                failure
                async for failure in failed_jobs.failures(
                    connection, keys, wanted, time.time(), newest_first=False
                )
            ]
            missing -= {failure.id for failure in meant}
            with Bar(queue, len(meant)) as bar:
                for start in range(0, len(meant), BATCH):
                    batch = meant[start : start + BATCH]
                    if dry_run:
                        outcomes[DONE] += len(batch)
                    else:
                        calls = [call(keys, failure) for failure in batch]
                        await _count(failed_jobs.carry_out(connection, calls), outcomes)
                    bar.step(len(batch))
    if missing:
        outcomes["no failed job has the id " + ", ".join(sorted(missing))] += len(missing)


async def _count(batch: Coroutine[Any, Any, list[str]], outcomes: Counter[str]) -> None:
    """Count what became of a batch; one that has been sent is waited for after Ctrl-C too."""
    sent = asyncio.create_task(batch)
    try:
        await asyncio.shield(sent)
    finally:
        outcomes.update(await sent)


async def _newest(settings: Settings, wanted: Wanted, limit: int) -> list[Failure]:
    found: list[Failure] = []
    async with _connection(settings) as connection:
        for queue in settings.queues:
            keys, count = QueueKeys(settings.prefix, queue), 0
            async for failure in failed_jobs.failures(
                connection, keys, wanted, time.time(), newest_first=True
            ):
                found.append(failure)
                count += 1
                if count >= limit:
                    break
    return sorted(found, key=lambda failure: -failure.failed_at)[:limit]


async def _one(settings: Settings, job_id: str) -> dict[str, Any]:
    async with JobClient(settings) as client:
        status = await client.status(job_id)
    if status.state != "failed":
        msg = f"job {job_id!r} on {status.queue} is {status.state}, not failed"
        raise JobNotFound(msg)
    async with _connection(settings) as connection:
        keys = QueueKeys(settings.prefix, status.queue)
        stack = await connection.call(Purpose.STATUS, "HGET", keys.job(job_id), "stacktrace")
        logs = await connection.call(Purpose.STATUS, "LRANGE", f"{keys.job(job_id)}:logs", 0, -1)
    return {
        **asdict(status),
        "stacktrace": (stack or b"[]").decode("utf-8", "replace"),
        "logs": [row.decode("utf-8", "replace") for row in logs],
    }


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncIterator[Connection]:
    connection = Connection(
        Address.parse(settings.redis_url),
        timeout=settings.command_timeout,
        counter=CommandCounter(),
    )
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _short(reason: str) -> str:
    first = reason.strip().partition("\n")[0]
    return first if len(first) <= _LONGEST_REASON else f"{first[: _LONGEST_REASON - 1]}…"
