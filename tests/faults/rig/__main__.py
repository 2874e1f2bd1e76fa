"""``python -m tests.faults.rig``: a day on a platform that scales to zero, by contender."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from convolab_worker.embedded import EmbeddedServer
from convolab_worker.telemetry.logging import configure_logging
from tests.faults.harness import Ledger
from tests.faults.rig.day import Day
from tests.faults.rig.places import PlaceRig
from tests.faults.rig.run import Contender, Place, Result, Rig
from tests.faults.rig.table import places_table, table
from tests.support.markdown import ROOT
from tests.support.node import NodeScripts

BEGIN, END = "<!-- make rig-places: begin -->", "<!-- make rig-places: end -->"


async def day_of(
    contender: Contender | Place, day: Day, ledger: EmbeddedServer, folder: Path
) -> Result:
    """One day of a contender, on a server of its own."""
    kind = PlaceRig if isinstance(contender, Place) else Rig
    with EmbeddedServer() as server:
        rig = kind(contender, day, server, Ledger(ledger.url, f"rig:{contender.name}"), folder)
        return await rig.run()


async def days_of(contenders: Sequence[Contender | Place], day: Day, folder: Path) -> list[Result]:
    """The same day of several contenders, at the same time."""
    with EmbeddedServer() as ledger:
        return await asyncio.gather(*[day_of(each, day, ledger, folder) for each in contenders])


def on_all_places(day: Day, folder: Path) -> int:
    """Run the day on every platform and write the table into the page; 0 if all is done once."""
    results = asyncio.run(days_of(list(Place), day, folder))
    table = places_table(results, day)
    print(table)  # noqa: T201
    good = all(each.ended == each.jobs and not each.ended_twice for each in results)
    if not good:
        print(f"\nthe processes' logs are in {folder}")  # noqa: T201
        return 1
    page = ROOT / "docs" / "platforms.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(f"{BEGIN}\n")
    after = rest.partition(END)[2]
    said = f"Seed {day.seed}, a day in {day.seconds:g} s, {day.jobs} jobs:"
    page.write_text(f"{before}{BEGIN}\n{said}\n\n{table}\n{END}{after}", encoding="utf-8")
    return 0


def main(arguments: list[str]) -> int:
    """Run the days, print the table; 0 if the contender that is ours did every job once."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.rig", description=__doc__)
    parser.add_argument("--seconds", type=float, default=360.0, help="a day's (%(default)s)")
    parser.add_argument("--jobs", type=int, default=240, help="a day's (%(default)s)")
    parser.add_argument("--seed", type=int, help="of everything random (default: a random one)")
    names = [contender.name.lower() for contender in Contender]
    parser.add_argument("--only", choices=names, action="append", help="leave others out")
    parser.add_argument(
        "--places", action="store_true", help="on every platform, into docs/platforms.md"
    )
    given = parser.parse_args(arguments)
    missing = NodeScripts.missing()
    if missing is not None:
        parser.error(f"one of the producers is in Node: {missing}")
    seed = random.randrange(2**32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)  # noqa: T201
    day = Day.of(given.seconds, given.jobs, seed)
    folder = Path(tempfile.mkdtemp(prefix="rig-"))
    wanted = [Contender[name.upper()] for name in given.only or names]
    configure_logging("error", "auto")  # what wakes that get lost say is expected here
    if given.places:
        return on_all_places(day, folder)
    results = asyncio.run(days_of(wanted, day, folder))
    print(table(results, day))  # noqa: T201
    good = all(
        result.ended == result.jobs and not result.ended_twice
        for result in results
        if result.contender is not Contender.SKETCH
    )
    if not good:
        print(f"\nthe processes' logs are in {folder}")  # noqa: T201
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
