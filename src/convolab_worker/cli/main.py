"""The command line: flags in, exit code out.

A command's code, and what it needs, is imported when that command runs, so that ``--help``
and a mistyped flag answer at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from convolab_worker.cli.flags import FAILED, INTERRUPTED, MISUSED, PROGRAM, parser
from convolab_worker.errors import ConfigurationError, ConvolabWorkerError
from convolab_worker.settings import OPTIONS, Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage or configuration.

    Without ``arguments``, those of the process. A command that Ctrl-C ended, where it does not
    stop cleanly as ``run`` and ``drain`` do, gives 130, as shells have it.
    """
    try:
        given = parser().parse_args(arguments)
        given.arguments = sys.argv[1:] if arguments is None else [*arguments]
    except SystemExit as leaving:  # argparse, after help, version or an error
        return leaving.code if isinstance(leaving.code, int) else MISUSED
    try:
        return _COMMANDS[given.command](given)
    except ConfigurationError as error:
        _complain(error)
        return MISUSED
    except ConvolabWorkerError as error:
        _complain(error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(given: argparse.Namespace) -> int:
    if given.burst:
        for flag in ("wake", "reload"):
            if getattr(given, flag):
                msg = f"--{flag} is for a worker that goes on: expected it without --burst"
                raise ConfigurationError(msg)
        return _drain(given)
    if given.budget is not None:
        msg = "--budget bounds a drain: expected --burst beside it"
        raise ConfigurationError(msg)
    settings = _settings(given)
    if given.reload:
        from convolab_worker.cli.commands import reload

        return reload.run(given.arguments, settings, embedded=given.embedded)
    from convolab_worker.cli.commands import run as work

    if given.wake:
        return work.serve(settings, embedded=given.embedded, insecure=given.insecure)
    _expect_wake(given, settings)
    return work.run(settings, embedded=given.embedded)


def _expect_wake(given: argparse.Namespace, settings: Settings) -> None:
    """Refuse what means nothing without the wake server."""
    for name, is_given in (
        ("--insecure", given.insecure),
        ("--port", given.port is not None),
        ("CONVOLAB_SLEEP_AFTER", settings.sleep_after is not None),
        ("CONVOLAB_WAKE_MODE=held", settings.wake_mode == "held"),
    ):
        if is_given:
            msg = f"{name} is for the wake server: expected --wake beside it"
            raise ConfigurationError(msg)


def _drain(given: argparse.Namespace) -> int:
    settings = _settings(given)
    from convolab_worker.cli.commands import run as work

    return work.drain(settings, budget=given.budget, embedded=given.embedded)


def _enqueue(given: argparse.Namespace) -> int:
    settings = _settings(given)
    if given.queues is not None and len(settings.queues) > 1:
        msg = f"--queue {','.join(settings.queues)}: expected the one queue that the job goes to"
        raise ConfigurationError(msg)
    if given.timeout is not None and not given.wait:
        msg = "--timeout bounds a wait: expected --wait beside it"
        raise ConfigurationError(msg)
    from convolab_worker.cli.commands import jobs

    job = jobs.NewJob(
        name=given.name,
        data=jobs.read_data(given.data),
        job_id=given.job_id,
        delay=given.delay,
        priority=given.priority,
        attempts=given.attempts,
    )
    return jobs.enqueue(settings, job, wait=given.wait, timeout=given.timeout)


def _status(given: argparse.Namespace) -> int:
    settings = _settings(given)
    if given.watch is not None and given.job_id is not None:
        msg = "--watch shows the queues: expected no job id beside it"
        raise ConfigurationError(msg)
    from convolab_worker.cli.commands import jobs

    return jobs.status(settings, given.job_id, as_lines=given.json, every=given.watch)


def _cancel(given: argparse.Namespace) -> int:
    settings = _settings(given)
    if given.send_back and given.reason is not None:
        msg = "--return gives no reason: expected either --fail REASON or --return"
        raise ConfigurationError(msg)
    reason = None if given.send_back else given.reason or "cancelled by an operator"
    from convolab_worker.cli.commands import jobs

    return jobs.cancel(
        settings, given.job_id, reason, timeout=given.timeout, wait=not given.no_wait
    )


def _failed(given: argparse.Namespace) -> int:
    settings = _settings(given)
    from convolab_worker.cli.commands import failed

    if given.action == "show":
        return failed.show(settings, given.job_id, as_lines=given.json)
    wanted = failed.wanted(given)
    if given.action == "list":
        return failed.show_list(settings, wanted, limit=given.limit, as_lines=given.json)
    if given.action == "remove":
        return failed.remove(settings, wanted, everything=given.all, dry_run=given.dry_run)
    return failed.retry(
        settings,
        wanted,
        everything=given.all,
        dry_run=given.dry_run,
        reset_attempts=given.reset_attempts,
    )


def _migrate(given: argparse.Namespace) -> int:
    if given.queues is None:
        msg = "nothing to move: expected --from QUEUE, once or more often"
        raise ConfigurationError(msg)
    settings = _settings(given)
    from convolab_worker.cli.commands import migrate

    states = [state.strip() for states in given.states for state in states.split(",")]
    return migrate.migrate(
        settings, given.destination, states, execute=given.yes, as_lines=given.json
    )


def _doctor(given: argparse.Namespace) -> int:
    settings = _settings(given)
    from convolab_worker.cli.commands.doctor import command as doctor

    return doctor.doctor(settings, strict=given.strict, as_lines=given.json)


def _cost(given: argparse.Namespace) -> int:
    from convolab_worker.cli.commands.cost import report

    return report.main(given)


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "drain": _drain,
    "enqueue": _enqueue,
    "status": _status,
    "cancel": _cancel,
    "failed": _failed,
    "migrate": _migrate,
    "doctor": _doctor,
    "cost": _cost,
}


def _settings(given: argparse.Namespace) -> Settings:
    """Return the settings of flags and environment, the flags going first."""
    flags = {name: getattr(given, name, None) for name in OPTIONS}
    if flags["queues"] is not None:
        flags["queues"] = tuple(name for names in flags["queues"] for name in names)
    return Settings.from_env(**{name: value for name, value in flags.items() if value is not None})


def _complain(error: Exception) -> None:
    sys.stderr.write(f"{PROGRAM}: error: {error}\n")
