"""``run``: works until a signal says stop; with ``--wake``, behind the wake server."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from convolab_worker.cli.arguments.flags import add_duration, add_settings, settings_of
from convolab_worker.cli.commands import drain
from convolab_worker.cli.commands.console import add_console_actions
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.settings import Settings
    from convolab_worker.worker.worker import Worker

EXAMPLE = "run --app lessons:handlers --queue audio"


def add_flags(command: Parser) -> None:
    command.add_argument(
        "--wake", action="store_true", help="also serve /wake, /health, /ready and /metrics"
    )
    command.add_argument(
        "--insecure",
        action="store_true",
        help="with --wake: anybody who can reach the port may call, without a token",
    )
    add_console_actions(command)
    command.add_argument("--burst", action="store_true", help="the same as the command drain")
    command.add_argument(
        "--reload", action="store_true", help="start again when a Python file below here changes"
    )
    drain.add_work_flags(command)
    add_duration(
        command, "--exit-when-idle", "end with 0 when nothing has happened for so long, such as 5m"
    )
    add_settings(command, "idle_min", "idle_max", "port")


def main(given: argparse.Namespace) -> int:
    """Work until a signal says stop; return 0 after a clean stop."""
    if given.burst:
        for flag in ("wake", "reload", "exit-when-idle"):
            if getattr(given, flag.replace("-", "_")) not in (None, False):
                msg = f"--{flag} is for a worker that goes on: expected it without --burst"
                raise ConfigurationError(msg)
        return drain.main(given)
    if given.budget is not None:
        msg = "--budget is for a drain: expected --burst with it"
        raise ConfigurationError(msg)
    settings = settings_of(given)
    if given.reload:
        from convolab_worker.cli.commands.run.reload import reload

        return reload(given.arguments, settings, embedded=given.embedded)
    if given.wake:
        from convolab_worker.cli.process.ahead import bound_ahead

        settings = _with_mode(settings)
        with bound_ahead(settings, insecure=given.insecure) as socks:
            return _work(settings, _serve(given, socks), given)
    _expect_no_wake_flags(given, settings)
    return _work(settings, lambda worker: _run(worker, given.exit_when_idle), given)


def _work(
    settings: Settings, work: Callable[[Worker], Awaitable[int]], given: argparse.Namespace
) -> int:
    from convolab_worker.cli.process.process import prepared, run_worker

    with prepared(settings, embedded=given.embedded, stop_code=0) as (handlers, reachable):
        return run_worker(handlers, reachable, work)


async def _run(worker: Worker, exit_when_idle: float | None) -> int:
    import asyncio

    from convolab_worker.cli.commands.run.systemd import Systemd, supervised

    async with supervised(worker, Systemd.from_env()):
        if exit_when_idle is None:
            await worker.run()
        else:
            ending = asyncio.create_task(_stop_when_idle(worker, exit_when_idle))
            try:
                await worker.run()
            finally:
                ending.cancel()
    return 0


async def _stop_when_idle(worker: Worker, seconds: float) -> None:
    """Stop the worker when nothing has happened for so long."""
    import asyncio

    await worker.started()
    left = seconds
    while left > 0:
        await asyncio.sleep(left)
        since = worker.idle_since()
        left = seconds if since is None else since + seconds - time.monotonic()
    await worker.stop()


def _serve(
    given: argparse.Namespace, socks: Sequence[socket.socket]
) -> Callable[[Worker], Awaitable[int]]:
    from convolab_worker.server.server import WakeServer

    async def serve(worker: Worker) -> int:
        async with WakeServer(worker, insecure=given.insecure, socks=socks):
            return await _run(worker, given.exit_when_idle)

    return serve


def _with_mode(settings: Settings) -> Settings:
    """Turn the wake mode ``auto`` into what the platform needs."""
    from convolab_worker.cli.commands.run.hosting import platform_of

    if settings.wake_mode != "auto":
        return settings
    platform = platform_of(os.environ)
    return settings.replace(wake_mode="background" if platform is None else platform.wake_mode)


def _expect_no_wake_flags(given: argparse.Namespace, settings: Settings) -> None:
    """Refuse what has no effect without the wake server."""
    for name, is_given in (
        ("--insecure", given.insecure),
        ("--port", given.port is not None),
        ("--console-actions", given.console_actions is not None),
        ("CONVOLAB_SLEEP_AFTER", settings.sleep_after is not None),
        ("CONVOLAB_WAKE_MODE=held", settings.wake_mode == "held"),
    ):
        if is_given:
            msg = f"{name} is for the wake server: expected --wake with it"
            raise ConfigurationError(msg)
