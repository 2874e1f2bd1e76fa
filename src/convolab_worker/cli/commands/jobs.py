"""``enqueue`` and ``status``: jobs from outside, as an API service sees them."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from convolab_worker.bullmq.producer import COMMANDS_PER_QUEUE
from convolab_worker.cli.output import as_json, described, remark, result, table
from convolab_worker.cli.wake_service import WAKE_SECONDS
from convolab_worker.client.client import JobClient
from convolab_worker.errors import ConfigurationError
from convolab_worker.telemetry.logging import configure_logging

if TYPE_CHECKING:
    from convolab_worker.settings import Settings

_HOME = "\x1b[H\x1b[J"  # to the upper left corner, and wipe what is below


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to enqueue, as its flags describe it; ``None`` leaves the choice to BullMQ."""

    name: str
    data: Any
    job_id: str | None = None
    delay: float | None = None
    priority: int | None = None
    attempts: int | None = None


def read_data(text: str) -> Any:
    """Return the JSON value that an argument means: itself, ``@FILE`` or ``-`` for standard input.

    Raises :class:`ConfigurationError` that names the place where it is not JSON.
    """
    source = "standard input" if text == "-" else text[1:] if text.startswith("@") else "JSON"
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_no_constant)
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{source} can't be read: {getattr(error, 'strerror', None) or error}"
    except RecursionError:
        msg = f"{source}: expected a JSON value, and it is nested too deeply"
    except ValueError as error:
        msg = f"{source}: expected a JSON value: {error}"
    raise ConfigurationError(msg)


def enqueue(settings: Settings, job: NewJob, *, wait: bool, timeout: float | None) -> int:
    """Add a job and print its id; with ``wait``, show progress and print the result."""
    configure_logging(settings.log_level, settings.log_format)
    return asyncio.run(_enqueue(settings, job, wait=wait, timeout=timeout))


def status(
    settings: Settings, job_id: str | None, *, as_lines: bool, every: float | None = None
) -> int:
    """Print one job, or how many jobs each queue has in each state; ``every`` so many seconds."""
    configure_logging(settings.log_level, settings.log_format)
    if every is not None:
        return asyncio.run(_watch_counts(settings, every, as_lines=as_lines))
    asyncio.run(_status(settings, job_id, as_lines=as_lines))
    return 0


def cancel(
    settings: Settings, job_id: str, reason: str | None, *, timeout: float | None, wait: bool
) -> int:
    """End a job that is running; say how it ended. 1 if that is not as asked, or not in time."""
    configure_logging(settings.log_level, settings.log_format)
    return asyncio.run(_cancel(settings, job_id, reason, timeout=timeout, wait=wait))


async def _cancel(
    settings: Settings, job_id: str, reason: str | None, *, timeout: float | None, wait: bool
) -> int:
    async with JobClient(settings) as client:
        try:
            ended = await client.cancel(job_id, reason=reason, timeout=timeout, wait=wait)
        except TimeoutError:
            remark(f"job {job_id} has not ended after {timeout:g} s; it was asked to, and will")
            return 1
    result(ended)
    return int(wait and ended != ("returned" if reason is None else "failed"))


async def _enqueue(settings: Settings, job: NewJob, *, wait: bool, timeout: float | None) -> int:
    queue = settings.queues[0]
    async with JobClient(settings) as client:
        job_id = await client.enqueue(
            job.name,
            job.data,
            queue=queue,
            job_id=job.job_id,
            delay=job.delay,
            priority=job.priority,
            attempts=job.attempts,
        )
        if not wait:
            result(job_id)
            if not await client.wake_heard(WAKE_SECONDS):
                remark(f"job {job_id} is on {queue}, but the worker service was not waked for it")
            return 0
        remark(f"job {job_id} is on {queue}")
        try:
            async with asyncio.timeout(timeout):
                return await _watched(client, job_id, queue)
        except TimeoutError:
            remark(f"job {job_id} has not finished after {timeout:g} s; it goes on")
            return 1


async def _watched(client: JobClient, job_id: str, queue: str) -> int:
    """Show what happens to a job until it ends; print its result, or say why it failed."""
    async for update in client.watch(job_id, queue=queue):
        if update.event == "completed":
            result(as_json(update.data))
            return 0
        if update.event == "failed":
            remark(f"job {job_id} failed: {update.data}")
            return 1
        if update.event != "progress":
            remark(f"job {job_id}: {update.event}")
        elif isinstance(update.data, int | float) and not isinstance(update.data, bool):
            remark(f"job {job_id}: {update.data:g} %")
        else:
            remark(f"job {job_id}: {as_json(update.data)}")
    return 1  # pragma: no cover - what is watched ends in one of the two


async def _status(settings: Settings, job_id: str | None, *, as_lines: bool) -> None:
    async with JobClient(settings) as client:
        if job_id is not None:
            job = asdict(await client.status(job_id))
            result(as_json(job) if as_lines else described(job))
            return
        counts = await client.counts()
    result(as_json(counts) if as_lines else _counted(counts))


def _counted(counts: dict[str, dict[str, int]]) -> str:
    states = list(dict.fromkeys(state for queue in counts.values() for state in queue))
    rows = [[queue, *(found.get(state, 0) for state in states)] for queue, found in counts.items()]
    return table([["queue", *states], *rows])


async def _watch_counts(settings: Settings, every: float, *, as_lines: bool) -> NoReturn:
    """Print the counts again and again: in place on a terminal, one below the other elsewhere."""
    in_place = sys.stdout.isatty() and not as_lines
    commands = COMMANDS_PER_QUEUE * len(settings.queues)
    remark(f"every {every:g} s, for {commands} Redis commands each time; Ctrl-C ends it")
    async with JobClient(settings) as client:
        while True:
            counts = await client.counts()
            text = as_json(counts) if as_lines else _counted(counts)
            if not as_lines:
                text = f"{datetime.now(UTC):%H:%M:%SZ}\n{text}"
            result(f"{_HOME}{text}" if in_place else text)
            await asyncio.sleep(every)


def _no_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)
