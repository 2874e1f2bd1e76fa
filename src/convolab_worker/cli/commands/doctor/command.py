"""``doctor``: what could go wrong here, before it does."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

from convolab_worker.cli.app_loader import load_app
from convolab_worker.cli.commands.doctor.checks import FAILURE, OK, WARNING, Finding
from convolab_worker.cli.commands.doctor.survey import Survey, unreachable
from convolab_worker.cli.output import as_json, result
from convolab_worker.connection.address import Address
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.usage import CommandCounter
from convolab_worker.errors import RedisUnavailable
from convolab_worker.telemetry.logging import configure_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convolab_worker.handlers.registry import HandlerRegistry
    from convolab_worker.settings import Settings

_CHECK_WIDTH = 16


def doctor(settings: Settings, *, strict: bool, as_lines: bool) -> int:
    """Print each check's verdict; 1 if one is a failure or, if ``strict``, a warning."""
    configure_logging(settings.log_level, settings.log_format)
    handlers = None if settings.app is None else load_app(settings.app)
    findings = asyncio.run(_examine(settings, handlers, as_lines=as_lines))
    if as_lines:
        result(as_json([asdict(finding) for finding in findings]))
    bad = {FAILURE, WARNING} if strict else {FAILURE}
    return int(any(finding.verdict in bad for finding in findings))


async def _examine(
    settings: Settings, handlers: HandlerRegistry | None, *, as_lines: bool
) -> list[Finding]:
    address, counter = Address.parse(settings.redis_url), CommandCounter()
    connection = Connection(address, timeout=settings.command_timeout, counter=counter)
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not as_lines:
            for line in _described(finding):
                result(line)

    try:
        await connection.open()
        tell(Finding(check="connection", verdict=OK, found=f"Redis at {address}"))
        async for finding in Survey(connection, settings, handlers).findings():
            tell(finding)
    except RedisUnavailable as error:
        tell(unreachable(error, settings))
    finally:
        await connection.close()
    return findings


def _described(finding: Finding) -> Iterator[str]:
    check = finding.check.ljust(_CHECK_WIDTH)
    yield f"{finding.verdict.ljust(7)}  {check}  {finding.found}"
    if finding.verdict in {WARNING, FAILURE}:
        margin = " " * (7 + 2 + 2)
        yield f"{margin}why: {finding.why}"
        yield f"{margin}do:  {finding.advice}"
