"""Asleep, a worker sends no packet: counted by the kernel, in a network namespace of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from tests.support.markdown import ROOT

pytestmark = pytest.mark.asyncio

RAILWAYS_SECONDS = 660.0
"""Railway calls a service inactive that has sent no packet for ten minutes."""


async def counted(mode: str, seconds: float) -> dict[str, Any]:
    """The packets of a sleep of so many seconds, and of what is around it."""
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--map-root-user", "--net", sys.executable, "-m"),
        *("tests.integration.platforms.alone_on_a_network", mode, str(seconds)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), seconds + 90)
    assert process.returncode == 0, err.decode()
    result: dict[str, Any] = json.loads(out)
    return result


async def test_a_worker_that_sleeps_sends_nothing_and_works_when_it_is_woken() -> None:
    """In both ways of working; one that never sleeps is heard by the same counter."""
    for result in await asyncio.gather(counted("background", 1.5), counted("held", 1.5)):
        assert (result["asleep"], result["asleep_again"]) == (0, 0)
        assert (result["status"], result["state"]) == ("drained", "completed")
        assert result["woken"] > 10
        assert result["awake"] > 10


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_worker_that_sleeps_sends_nothing_for_as_long_as_railway_waits() -> None:
    """Eleven minutes."""
    result = await counted("background", RAILWAYS_SECONDS)

    assert (result["asleep"], result["state"]) == (0, "completed")
