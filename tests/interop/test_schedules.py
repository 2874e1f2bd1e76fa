"""Schedules are due when Node's workers find them due: cron-parser decides, and is asked."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.interop.schedules import ZONES, Schedule, clock_changes, schedules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.node import NodeScripts

pytestmark = pytest.mark.asyncio
SEED = 20_261_126
MINUTES = 600.0
_IN_CIRCLES = "loop limit exceeded"


async def differences(node: NodeScripts, asked: Sequence[Schedule], **options: Any) -> list[str]:
    """Where the two differ; a refusal is one whatever its words."""
    script = await node.start("cron.mjs", **options)
    async with script:
        await script.send([schedule.asked() for schedule in asked])
        theirs = await script.receive(timeout=MINUTES)
    told = []
    for schedule, their in zip(asked, theirs, strict=True):
        our = schedule.moments()
        # Documented: where cron-parser turns in circles a schedule goes on here.
        is_lost = schedule.tz == "Australia/Lord_Howe" and _IN_CIRCLES in their.get("error", "")
        if their.get("at") != our.get("at") and not is_lost:
            told.append(f"{schedule}\n  Node {their}\n  ours {our}")
    return told


async def test_random_schedules_are_due_when_node_says(node: NodeScripts) -> None:
    """The first of the long run below: every change of a clock once, and some others."""
    asked = [*itertools.islice(schedules(SEED, 5000), 350)]

    assert await differences(node, asked) == []


@pytest.mark.long
async def test_five_thousand_random_schedules_are_due_when_node_says(node: NodeScripts) -> None:
    asked = [*schedules(SEED, 5000)]

    assert await differences(node, asked) == []
    assert {schedule.tz for schedule in asked} > {*ZONES}
    assert sum("error" in schedule.moments() for schedule in asked) < len(asked) / 3


async def test_a_schedule_without_a_zone_is_in_the_hosts(
    node: NodeScripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``TZ`` decides for both; it is summer time in the first half of the days asked for."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        change = [*clock_changes("Europe/Berlin")][-1]
        asked = [
            Schedule(pattern, None, (change + shift) * 1000, None, "seed")
            for pattern in ("0 9 * * *", "*/30 * * * *", "30 2 * * *")
            for shift in (-86_400, -3600, 0)
        ]

        assert await differences(node, asked, environ={"TZ": "Europe/Berlin"}) == []
    finally:
        monkeypatch.undo()
        time.tzset()
