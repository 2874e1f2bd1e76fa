"""``enqueue``: adds a job, as an API service does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.cli.arguments import flags, job_flags
from convolab_worker.cli.output import as_json, remark, result
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

    from convolab_worker.bullmq.jobs.job_id import JobId
    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.client.client import JobClient
    from convolab_worker.settings import Settings

EXAMPLE = """enqueue speak '{"text": "Hello"}' --queue audio --wait"""

_LOOK_AFTER_SECONDS = 1.0


def add_flags(command: Parser) -> None:
    command.add_argument("name", metavar="NAME", help="the job's name")
    job_flags.add_data(command, "the job's data")
    command.add_argument(
        "--wait", action="store_true", help="show the job's progress, then print its result"
    )
    flags.add_duration(command, "--timeout", "with --wait: wait no longer than this")
    flags.add_duration(command, "--delay", "start the job no sooner than after this long")
    job_flags.add_flags(command)
    command.add_argument("--job-id", metavar="ID", help="an id of your own; added once only")
    command.add_argument(
        "--deduplication", metavar="ID", help="add no job while one with this has not ended"
    )
    flags.add_json(command)
    flags.add_connection(command, "the queue that the job goes to (default: convolab)")


def main(given: argparse.Namespace) -> int:
    """Add a job and print its id; with ``--wait``, show its progress and print its result."""
    settings = flags.settings_of(given)
    job_flags.expect_one_queue(given, settings, "the job goes to")
    if given.timeout is not None and not given.wait:
        msg = "--timeout is for a wait: expected --wait with it"
        raise ConfigurationError(msg)
    data = job_flags.read_data(given.data)
    from convolab_worker.cli.process.process import run_client

    return run_client(settings, _enqueue(settings, data, given))


async def _enqueue(settings: Settings, data: Any, given: argparse.Namespace) -> int:
    from convolab_worker.cli.queues import new_queues
    from convolab_worker.cli.wake_service import WAKE_SECONDS
    from convolab_worker.client.client import JobClient

    queue = settings.queues[0]
    sentences = await new_queues(settings, given)
    async with JobClient(settings) as client:
        job_id = await client.enqueue(
            given.name,
            data,
            queue=queue,
            job_id=given.job_id,
            delay=given.delay,
            deduplication=given.deduplication,
            **job_flags.job_options(given),
        )
        for sentence in sentences:
            remark(sentence)
        if job_id.existed:
            remark(f"nothing was added: job {job_id} was there already, and is {job_id.state}")
        if given.wait:
            remark(f"job {job_id} is on {queue}")
            return await _wait(client, job_id, queue, given.timeout)
        result(as_json(_facts(job_id, queue)) if given.json else job_id)
        if not await client.wake_heard(WAKE_SECONDS):
            remark(f"job {job_id} is on {queue}, but the worker service was not woken")
        return 0


def _facts(job_id: JobId, queue: str) -> dict[str, Any]:
    return {"id": job_id, "queue": queue, "existed": job_id.existed, "state": job_id.state}


async def _wait(client: JobClient, job_id: str, queue: str, timeout: float | None) -> int:
    import asyncio

    try:
        async with asyncio.timeout(timeout):
            return await _watch(client, job_id, queue)
    except TimeoutError:
        remark(f"job {job_id} has not finished after {timeout:g} s; it is still on {queue}")
        return 1


async def _watch(client: JobClient, job_id: str, queue: str) -> int:
    """Show what happens to a job until it ends; print its result, or say why it failed."""
    import asyncio

    telling = asyncio.create_task(_tell_why_it_waits(client, job_id, queue))
    try:
        return await _follow(client, job_id, queue)
    finally:
        telling.cancel()


async def _tell_why_it_waits(client: JobClient, job_id: str, queue: str) -> None:
    """After a second, say so if no worker is there to start the job."""
    import asyncio

    from convolab_worker.errors import ConvolabWorkerError

    try:
        await asyncio.sleep(_LOOK_AFTER_SECONDS)
        if (await client.status(job_id, queue)).state not in {"waiting", "prioritized"}:
            return
        (found,) = await client.queues([queue])
    except ConvolabWorkerError:  # the watch says what is wrong
        return
    if found.paused:
        remark(f"{queue} is paused: convolab-worker queue resume --queue {queue}")
    elif found.workers is not None and not found.workers:
        woken = "" if client.settings.wake_url is None else " yet; the worker service was woken"
        remark(f"no worker is listening on {queue}{woken}")


async def _follow(client: JobClient, job_id: str, queue: str) -> int:
    from convolab_worker.cli.job_view import progress

    async for update in client.watch(job_id, queue=queue):
        if update.event == "completed":
            result(as_json(update.data))
            return 0
        if update.event == "failed":
            remark(f"job {job_id} failed: {update.data}")
            return 1
        is_progress = update.event == "progress"
        remark(f"job {job_id}: {progress(update.data) if is_progress else update.event}")
    return 1  # pragma: no cover - the last event is one of the first two
