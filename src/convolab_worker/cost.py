"""Pure: commands, money and pick-up latency of a described workload, by way of working.

Arguments in, tables out: command counts come from ``cost_counts``, what they cost from
``prices``; ``cost_assumptions`` and ``cost_checks`` say what all of it rests on.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, expm1
from typing import TYPE_CHECKING

from convolab_worker.cost_counts import (
    BULLMQ_DRAIN_SECONDS,
    BULLMQ_STALLED_SECONDS,
    DAY_SECONDS,
    NO_COMMANDS,
    Commands,
    Workload,
    bullmq_idle_per_day,
    bullmq_work_per_day,
    our_idle_per_day,
    our_look,
    our_start,
    our_work_per_day,
    require,
)
from convolab_worker.prices import RedisBill, compute_usd, redis_bill, scheduler_usd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convolab_worker.prices import Prices

TUNED_SECONDS = 300.0
# The worst of bullmq (Node) in 25 jobs, each after an idle time; ours is held to no more than
# Node's in the same run (examples/benchmarks).
PUSH_PICKUP_SECONDS = 0.0054


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """What a worker runs on, and what of it costs nothing.

    ``always_on_usd_per_month`` is the price of one always-on host where it is no Cloud Run
    instance. ``free_tier`` false: something else uses the account's free allowances up.
    """

    vcpu: float = 1.0
    memory_gib: float = 0.5
    cold_start_seconds: float = 2.0
    free_tier: bool = True
    always_on_usd_per_month: float | None = None

    def __post_init__(self) -> None:
        """Raise ConfigurationError that names the first number which makes no sense."""
        numbers = {
            "vCPU": self.vcpu,
            "memory": self.memory_gib,
            "cold start": self.cold_start_seconds,
            "always-on host": self.always_on_usd_per_month or 0.0,
        }
        require(numbers, least=0.0, expected="a finite number, 0 or more")


STANDARD_HOSTING = Hosting()


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way of working that the table compares.

    ``bullmq_waits`` are bullmq's drainDelay and stalledInterval (seconds); None is this worker.
    ``wakes`` (by HTTP) and ``scheduler_seconds`` say what starts a worker that sleeps at zero
    instances; a way with neither is always on.
    """

    key: str
    name: str
    bullmq_waits: tuple[float, float] | None = None
    wakes: bool = False
    scheduler_seconds: float | None = None

    @property
    def sleeps(self) -> bool:
        """Whether no instance is there while there is no work."""
        return self.wakes or self.scheduler_seconds is not None


WAYS = (
    Way(
        key="bullmq-polling",
        name="BullMQ workers as they were",
        bullmq_waits=(BULLMQ_DRAIN_SECONDS, BULLMQ_STALLED_SECONDS),
    ),
    Way(
        key="bullmq-tuned",
        name="bullmq Node, tuned by hand",
        bullmq_waits=(TUNED_SECONDS, TUNED_SECONDS),
    ),
    Way(key="always-on", name="this worker, always on"),
    Way(key="wake-http", name="waked by HTTP", wakes=True),
    Way(key="wake-2m", name="scheduled every 2 min", scheduler_seconds=120.0),
    Way(key="wake-5m", name="scheduled every 5 min", scheduler_seconds=300.0),
    Way(key="wake-both", name="waked by HTTP + every 5 min", wakes=True, scheduler_seconds=300.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way of working: what it costs, and how long a job waits at worst for its start.

    ``if_signal_lost_seconds`` is that wait when the push or the wake of a job is lost; None means
    until the next one comes. Commands and instance seconds are for a day, money is for a month.
    """

    way: Way
    idle: Commands
    commands: Commands
    instance_seconds: float
    starts: float
    redis: RedisBill
    compute_usd: float
    scheduler_usd: float
    worst_pickup_seconds: float
    if_signal_lost_seconds: float | None

    @property
    def total_usd(self) -> float:
        """A month of Redis on its cheapest plan, compute and scheduler."""
        return self.redis.plan_usd + self.compute_usd + self.scheduler_usd


def table(
    workload: Workload,
    prices: Prices,
    *,
    hosting: Hosting = STANDARD_HOSTING,
    ways: Iterable[Way] = WAYS,
) -> list[Row]:
    """Return one row for each way of working."""
    return [
        _sleeping(way, workload, prices, hosting)
        if way.sleeps
        else _always_on(way, workload, prices, hosting)
        for way in ways
    ]


def _always_on(way: Way, workload: Workload, prices: Prices, hosting: Hosting) -> Row:
    if way.bullmq_waits is None:
        idle, work = our_idle_per_day(workload), our_work_per_day(workload)
        lost = workload.idle.longest
    else:
        drain_seconds, stalled_seconds = way.bullmq_waits
        idle = bullmq_idle_per_day(
            workload, drain_seconds=drain_seconds, stalled_seconds=stalled_seconds
        )
        work = bullmq_work_per_day(workload)
        lost = drain_seconds
    seconds = DAY_SECONDS * workload.workers
    if hosting.always_on_usd_per_month is None:
        compute = compute_usd(
            prices.instance_based,
            vcpu_seconds_per_day=seconds * hosting.vcpu,
            gib_seconds_per_day=seconds * hosting.memory_gib,
            requests_per_day=0.0,
            free_tier=hosting.free_tier,
        )
    else:
        compute = hosting.always_on_usd_per_month * workload.workers
    commands = idle + work
    return Row(
        way=way,
        idle=idle,
        commands=commands,
        instance_seconds=seconds,
        starts=0.0,
        redis=redis_bill(prices.redis, commands.billable, free_tier=hosting.free_tier),
        compute_usd=compute,
        scheduler_usd=0.0,
        worst_pickup_seconds=PUSH_PICKUP_SECONDS,
        if_signal_lost_seconds=lost,
    )


def _sleeping(way: Way, workload: Workload, prices: Prices, hosting: Hosting) -> Row:
    ticks = DAY_SECONDS / way.scheduler_seconds if way.scheduler_seconds else 0.0
    # With waked slots enough for all, work comes in busy periods as in an M/G/inf queue: a job
    # finds nobody awake with probability exp(-load), and that is also the idle share of time.
    wakes = workload.jobs_per_day * exp(-workload.load) if way.wakes else 0.0
    busy_seconds = -DAY_SECONDS * expm1(-workload.load)
    starts_for_work = wakes + workload.delayed_jobs_per_day
    starts = starts_for_work + ticks
    seconds = min(busy_seconds + starts * hosting.cold_start_seconds, DAY_SECONDS)
    start = our_start(workload)
    idle = start.times(ticks)
    joined = our_look(workload).times(workload.jobs_per_day - wakes) if way.wakes else NO_COMMANDS
    commands = idle + our_work_per_day(workload) + start.times(starts_for_work) + joined
    pickup, lost = _pickup(way, hosting)
    return Row(
        way=way,
        idle=idle,
        commands=commands,
        instance_seconds=seconds,
        starts=starts,
        redis=redis_bill(prices.redis, commands.billable, free_tier=hosting.free_tier),
        compute_usd=compute_usd(
            prices.request_based,
            vcpu_seconds_per_day=seconds * hosting.vcpu,
            gib_seconds_per_day=seconds * hosting.memory_gib,
            requests_per_day=ticks + (workload.jobs_per_day if way.wakes else 0.0),
            free_tier=hosting.free_tier,
        ),
        scheduler_usd=scheduler_usd(
            prices.scheduler, 1 if way.scheduler_seconds else 0, free_tier=hosting.free_tier
        ),
        worst_pickup_seconds=pickup,
        if_signal_lost_seconds=lost,
    )


def _pickup(way: Way, hosting: Hosting) -> tuple[float, float | None]:
    """Return the worst wait for a start, and the worst if one wake is lost."""
    at_once = hosting.cold_start_seconds + PUSH_PICKUP_SECONDS
    tick = way.scheduler_seconds
    if tick is None:
        return at_once, None
    return (at_once, tick + at_once) if way.wakes else (tick + at_once, 2 * tick + at_once)
