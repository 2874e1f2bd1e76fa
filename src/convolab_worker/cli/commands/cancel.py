"""``cancel``: ends a job wherever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker.cli.arguments import flags
from convolab_worker.cli.output import as_json, remark, result
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.settings import Settings

EXAMPLE = "cancel later"


def add_flags(command: Parser) -> None:
    command.add_argument("job_id", metavar="JOB_ID", help="the job to end")
    command.add_argument(
        "--fail", dest="reason", metavar="REASON", help="let it fail for this reason (the default)"
    )
    command.add_argument(
        "--return", dest="send_back", action="store_true", help="put it back into its queue instead"
    )
    flags.add_duration(command, "--timeout", "wait no longer than this for its end")
    command.add_argument("--no-wait", action="store_true", help="don't wait for its end")
    flags.add_json(command)
    flags.add_connection(command, flags.QUEUES_LOOKED_IN)


def main(given: argparse.Namespace) -> int:
    """End a job and print how it ended; return 1 if it ended otherwise, or not in time."""
    settings = flags.settings_of(given)
    if given.send_back and given.reason is not None:
        msg = "--return gives no reason: expected either --fail REASON or --return"
        raise ConfigurationError(msg)
    from convolab_worker.cli.process.process import run_client

    return run_client(settings, _cancel(settings, given))


async def _cancel(settings: Settings, given: argparse.Namespace) -> int:
    from convolab_worker.cli.queues import job_of, looked_in
    from convolab_worker.client.client import JobClient

    job_id, wait = given.job_id, not given.no_wait
    reason = None if given.send_back else given.reason or "cancelled by an operator"
    async with JobClient(await looked_in(settings, given)) as client:
        queue = (await job_of(client, job_id)).queue
        try:
            ended = await client.cancel(
                job_id, queue=queue, reason=reason, timeout=given.timeout, wait=wait
            )
        except TimeoutError:
            remark(f"job {job_id} has not ended after {given.timeout:g} s; it was asked to end")
            return 1
    result(as_json({"id": job_id, "ended": ended}) if given.json else ended)
    as_asked = ("returned",) if given.send_back else ("failed", "removed")
    return int(wait and ended not in as_asked)
