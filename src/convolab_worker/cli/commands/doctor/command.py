"""The flags of ``doctor``, and what it prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from convolab_worker.cli.arguments import flags
from convolab_worker.cli.arguments.flags import add_connection, add_json, add_settings, settings_of
from convolab_worker.cli.commands.doctor.checks import FAILURE, OK, WARNING, Finding
from convolab_worker.cli.output import as_json, printable, result
from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.settings import Settings

EXAMPLE = "doctor --app lessons:handlers --queue audio"

_VERDICT_WIDTH, _CHECK_WIDTH = 7, 16


def add_flags(command: Parser) -> None:
    command.add_argument("--strict", action="store_true", help="exit with 1 for a warning, too")
    add_json(command)
    add_settings(command, "app", "idle_max", "lock_duration", "command_timeout")
    add_connection(command, flags.QUEUES_LOOKED_IN)


def main(given: argparse.Namespace) -> int:
    """Print each check's verdict; return 1 for a failure or, with ``--strict``, a warning."""
    settings = settings_of(given)
    from convolab_worker.cli.process.process import load_handlers, run_client

    handlers = None if settings.app is None else load_handlers(settings)
    finds = not flags.names_queues(given)
    examination = _examine(settings, handlers, finds=finds, as_lines=given.json)
    findings = run_client(settings, examination)
    if given.json:
        result(as_json([asdict(finding) for finding in findings]))
    bad = {FAILURE, WARNING} if given.strict else {FAILURE}
    return int(any(finding.verdict in bad for finding in findings))


async def _examine(
    settings: Settings, handlers: HandlerRegistry | None, *, finds: bool, as_lines: bool
) -> list[Finding]:
    """Return all findings; without ``as_lines``, print each as soon as it is known."""
    from convolab_worker.cli.commands.doctor.survey import Survey, unreachable
    from convolab_worker.client.session import connected
    from convolab_worker.connection.source import ServerSource

    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        findings.append(finding)
        if not as_lines:
            for line in _lines(finding):
                result(printable(line))

    try:
        async with connected(settings) as connection:
            address = ServerSource.of(settings)
            report(Finding(check="connection", verdict=OK, found=f"Redis at {address}"))
            async for finding in Survey(connection, settings, handlers, finds=finds).findings():
                report(finding)
    except RedisUnavailable as error:
        report(unreachable(error, settings))
    return findings


def _lines(finding: Finding) -> Iterator[str]:
    verdict, check = finding.verdict.ljust(_VERDICT_WIDTH), finding.check.ljust(_CHECK_WIDTH)
    yield f"{verdict}  {check}  {finding.found}"
    if finding.verdict in {WARNING, FAILURE}:
        margin = " " * (_VERDICT_WIDTH + 4)
        yield f"{margin}why: {finding.why}"
        yield f"{margin}do:  {finding.advice}"
