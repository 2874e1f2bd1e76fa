"""An idle day: what this worker, bullmq Node and bullmq Python are billed for doing nothing.

All stand side by side, each on a private Valkey of its own, for some minutes. Every command is
counted as a bill does, and extrapolated to a day: by its rate for bullmq's workers, whose cost
does not change; by waits for this worker, whose waits grow to half an hour. Scenarios named
"whole day" and "tuned" run with all their times divided by one factor, so that a whole day
passes, and is counted, while the others idle at their real settings. Then jobs arrive one by
one, and the time from add to handler is taken.

    python examples/benchmarks/idle.py --minutes 5 --json idle.json --plot idle.png
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from convolab_worker.cli.commands.cost.command import load_prices
from convolab_worker.worker.dispatch.idle_backoff import Bounds
from examples.benchmarks.benchkit.day import (
    DAY_SECONDS,
    Waits,
    from_rate,
    ramp,
    rest_of_day,
    staircase,
    steady_day,
    waits_of,
)
from examples.benchmarks.benchkit.idling import (
    Idle,
    IdleWorker,
    idle_side_by_side,
    measure_pick_ups,
)
from examples.benchmarks.benchkit.plot import plot_day
from examples.benchmarks.benchkit.process import Producer
from examples.benchmarks.benchkit.report import progress, say, table, write_json
from examples.benchmarks.benchkit.scenarios import IDLE_MAX, IDLE_MIN, Day, Scenario, all_scenarios

_BOUNDS = Bounds(shortest=IDLE_MIN, longest=IDLE_MAX)
_DAYS_A_MONTH = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleDay:
    """One row of the report: counted in the measured time, and made of it for a day."""

    key: str
    label: str
    day: Day
    seconds: float
    sent: dict[str, int]
    scripted: dict[str, int]
    client_sent: int
    billable: int
    billable_by_server: int
    waits: Waits | None
    client_sent_a_day: float | None
    billable_a_day: float | None
    pick_up_ms: list[float]


def to_day(idle: Idle, pick_ups: list[float], scale: float) -> IdleDay:
    """Make a day of what was counted, in the way that the scenario asks for."""
    scenario, waits = idle.scenario, waits_of(idle.blocks, idle.sent, idle.billable)
    sent_a_day: float | None = None
    billable_a_day: float | None = None
    if scenario.day is not Day.WAITS:
        faster = scale if scenario.day is Day.SCALED else 1.0
        sent_a_day = from_rate(idle.count.client_sent, idle.seconds, scale=faster)
        billable_a_day = from_rate(idle.count.billable, idle.seconds, scale=faster)
    elif waits is not None:
        sent_a_day = steady_day(waits.client_sent, bounds=_BOUNDS)
        billable_a_day = steady_day(waits.billable, bounds=_BOUNDS)
    return IdleDay(
        key=scenario.key,
        label=scenario.label,
        day=scenario.day,
        seconds=idle.seconds,
        sent=idle.count.sent,
        scripted=idle.count.scripted,
        client_sent=idle.count.client_sent,
        billable=idle.count.billable,
        billable_by_server=idle.billable_by_server,
        waits=waits,
        client_sent_a_day=sent_a_day,
        billable_a_day=billable_a_day,
        pick_up_ms=pick_ups,
    )


def report(days: list[IdleDay]) -> str:
    """Lay the rows out as a table."""
    headings = (
        "idle worker",
        "counted",
        "billed",
        "bzpopmin",
        "evalsha",
        "exists",
        "in Lua",
        "sent a day",
        "billed a day",
        "made by",
        "pick-up p50 ms",
        "worst",
        "jobs",
    )
    rows = []
    for day in days:
        picked = day.pick_up_ms
        rows.append(
            (
                day.label,
                f"{day.seconds:.0f} s",
                day.billable,
                *(day.sent.get(name, 0) for name in ("bzpopmin", "evalsha", "exists")),
                sum(day.scripted.values()),
                None if day.client_sent_a_day is None else round(day.client_sent_a_day),
                None if day.billable_a_day is None else round(day.billable_a_day),
                day.day.value,
                f"{median(picked):.2f}" if picked else None,
                f"{max(picked):.2f}" if picked else None,
                len(picked) or None,
            )
        )
    return table(headings, rows)


def curve(idle: Idle, scale: float) -> list[tuple[float, float]]:
    """Give cumulative billable commands over the day: the measured minutes, then the rest."""
    if idle.scenario.day is Day.RATE:
        return ramp(from_rate(idle.count.billable, idle.seconds))
    if idle.scenario.day is Day.SCALED:
        return staircase([at * scale for at in idle.billable])
    waits = waits_of(idle.blocks, idle.sent, idle.billable)
    if waits is None:
        return staircase(idle.billable)
    last_wait = idle.blocks[-1] - idle.blocks[-2]
    rest = rest_of_day(waits.last_block, last_wait, bounds=_BOUNDS)
    sizes = [1.0] * len(idle.billable) + [waits.billable] * len(rest)
    return staircase([*idle.billable, *rest], sizes)


def _free_plans() -> dict[str, float]:
    redis = load_prices().redis
    a_day = redis.free_plan_commands_per_month / _DAYS_A_MONTH
    return {f"free plan of {redis.provider}, {redis.read}": a_day, "free plan until 2025": 10_000}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long all of them idle")
    parser.add_argument("--jobs", type=int, default=25, help="jobs that arrive at each afterwards")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="run these scenarios alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the day as a PNG there")
    return parser.parse_args()


def _chosen(scale: float, only: list[str] | None) -> list[Scenario]:
    scenarios = all_scenarios(scale)
    known = {scenario.key for scenario in scenarios}
    if unknown := set(only or ()) - known:
        message = f"--only {' '.join(sorted(unknown))}: expected some of {' '.join(sorted(known))}"
        raise SystemExit(message)
    return [scenario for scenario in scenarios if not only or scenario.key in only]


def main() -> None:
    """Measure, print the table, and write the JSON and the picture where asked."""
    options = _options()
    seconds = options.minutes * 60
    scale = DAY_SECONDS / seconds
    with ExitStack() as stack:
        producer = stack.enter_context(Producer())
        workers = []
        for scenario in _chosen(scale, options.only):
            progress(f"starting: {scenario.label}")
            workers.append(IdleWorker(stack, scenario, producer))
        progress(f"all idle for {options.minutes:g} minutes")
        idles = idle_side_by_side(workers, seconds)
        progress(f"{options.jobs} jobs arrive at each")
        measure_pick_ups(workers, options.jobs)
        days = [
            to_day(idle, worker.pick_ups, scale)
            for idle, worker in zip(idles, workers, strict=True)
        ]
    say(report(days))
    if options.json:
        write_json(options.json, {"scale": scale, "days": [asdict(day) for day in days]})
    if options.plot:
        curves = {idle.scenario.label: curve(idle, scale) for idle in idles if idle.scenario.curve}
        plot_day(options.plot, curves, _free_plans())


if __name__ == "__main__":
    main()
