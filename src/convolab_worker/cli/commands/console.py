"""``console``: serves the console without a worker, until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from convolab_worker.cli.arguments import flags

if TYPE_CHECKING:
    import argparse

    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.settings import Settings

EXAMPLE = "console"


def add_flags(command: Parser) -> None:
    add_console_actions(command)
    flags.add_settings(command, "port", "console_payloads", "console_redact")
    flags.add_connection(command)


def add_console_actions(command: Parser) -> None:
    command.add_argument(
        "--console-actions",
        action="store_const",
        const="on",
        help="let whoever may open the console retry, remove and pause where no token is set",
    )


def main(given: argparse.Namespace) -> int:
    """Serve until a signal ends the process; Ctrl-C is the normal end, and not a failure."""
    settings = flags.settings_of(given)
    from convolab_worker.cli.process.process import run_client

    try:
        run_client(settings, _serve(settings))
    except KeyboardInterrupt:
        return flags.DONE


async def _serve(settings: Settings) -> NoReturn:
    import asyncio

    from convolab_worker.cli.output import remark
    from convolab_worker.server.server import ConsoleServer

    async with ConsoleServer(settings) as server:
        remark(f"the console is at http://127.0.0.1:{server.port}/ until Ctrl-C")
        while True:
            await asyncio.Event().wait()
