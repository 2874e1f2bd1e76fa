"""The cost model: commands, money and the worst wait of a workload, by way of working. Pure.

Jobs arrive independently of each other (a Poisson process), and each is charged as a job that
arrives alone, which is the most expensive case. Counts are for a day, money is USD for a month.
"""

from __future__ import annotations

from itertools import accumulate
from math import exp, expm1
from typing import TYPE_CHECKING

from msgspec import Struct

from convolab_worker.bullmq.protocol.script_costs import ADD_NUMBERED, PROGRESS, RENEWAL
from convolab_worker.worker.dispatch.idle_backoff import Bounds, next_wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.cli.commands.cost.prices import Hosting, Prices, RedisBill

DAY_SECONDS = 86_400.0
LOCK_SECONDS = 60.0
RENEWAL_SECONDS = LOCK_SECONDS * 3 / 8


class Commands(Struct, frozen=True):
    """Redis commands: those that clients send, and those that a provider bills (in Lua, too)."""

    client_sent: float = 0.0
    billable: float = 0.0

    def __add__(self, other: Commands) -> Commands:
        return Commands(self.client_sent + other.client_sent, self.billable + other.billable)

    def __mul__(self, factor: float) -> Commands:
        return Commands(self.client_sent * factor, self.billable * factor)


class Event(Commands, frozen=True):
    """The commands of one event, which the report names."""

    name: str = ""


# Each of these scripts costs the same for every caller; script_costs has what it runs inside Redis.
ADD_JOB = Event(1, 1 + ADD_NUMBERED, "any worker: a job is added, numbered by BullMQ")
PROGRESS_UPDATE = Event(1, 1 + PROGRESS, "any worker: a progress update")
LOCK_RENEWAL = Event(1, 1 + RENEWAL, "any worker: a renewal of a job's lock")
# bullmq (Node) 6.7.0, measured by examples/benchmarks at concurrency 1.
BULLMQ_LONE_JOB = Event(5, 44, "bullmq: the run of a job that came alone")
BULLMQ_WAIT = Event(2, 8, "bullmq: a wait, BZPOPMIN and a moveToActive that finds nothing")
BULLMQ_STALLED_CHECK = Event(1, 7, "bullmq: a stalled check")
# This worker, measured by examples/benchmarks.
OUR_LONE_JOB = Event(5, 25, "this worker: the run of a job that came alone")
OUR_DELAYED_JOB = Event(3, 12, "this worker: more for a job that was delayed, at most")
OUR_WAIT = Event(2, 2, "this worker: a wait, BZPOPMIN and EXISTS over all queues")
OUR_STALLED_CHECK = Event(
    1, 1, f"this worker: a stalled check, {LOCK_SECONDS:g} s after a job started"
)
OUR_LOCK_CHECK = Event(1, 1, "this worker: PTTL of a job that still runs then")
OUR_LOCK_CONNECT = Event(1, 1, "this worker: a connection for the first renewal of a job's lock")
OUR_CONNECT = Event(2, 2, "this worker: two connections when it starts")
OUR_PROBE = Event(1, 1, "this worker: a probe of one queue when it starts or is woken")

BULLMQ_RENEWAL_SECONDS = 15.0
BULLMQ_DELAYED_SECONDS = 10.0  # the longest wait on a queue that has a delayed job
BULLMQ_DEFAULTS = (5.0, 30.0)  # drainDelay and stalledInterval
BULLMQ_TUNED = (300.0, 300.0)
# The worst of bullmq's 25 jobs that came after an idle time. The benchmark holds this worker to
# no more than bullmq's worst in the same run.
PUSH_SECONDS = 0.0054


class JobKind(Struct, frozen=True, kw_only=True):
    """The jobs of one kind: how many a day, and how long one runs."""

    name: str
    jobs_per_day: float
    mean_seconds: float


class Workload(Struct, frozen=True, kw_only=True):
    """The jobs of a day, and the workers for them; ``idle`` bounds this worker's waits."""

    kinds: tuple[JobKind, ...]
    queues: int
    workers: int
    concurrency: int
    progress_updates_per_job: float
    delayed_jobs_per_day: float
    mean_delay_seconds: float
    idle: Bounds

    @property
    def jobs_per_day(self) -> float:
        return sum(kind.jobs_per_day for kind in self.kinds)

    @property
    def load(self) -> float:
        """How many jobs run at once, on average."""
        return sum(kind.jobs_per_day * kind.mean_seconds for kind in self.kinds) / DAY_SECONDS


class Way(Struct, frozen=True, kw_only=True):
    """A way of working; HTTP calls (``wakes``) or a scheduler start a worker that sleeps.

    ``bullmq_waits`` are bullmq's drainDelay and stalledInterval in seconds; None is this worker.
    """

    key: str
    name: str
    bullmq_waits: tuple[float, float] | None = None
    wakes: bool = False
    scheduler_seconds: float | None = None

    @property
    def sleeps(self) -> bool:
        """Whether no instance runs while there is no work."""
        return self.wakes or self.scheduler_seconds is not None


WAYS = (
    Way(key="bullmq-polling", name="bullmq Node, defaults", bullmq_waits=BULLMQ_DEFAULTS),
    Way(key="bullmq-tuned", name="bullmq Node, tuned by hand", bullmq_waits=BULLMQ_TUNED),
    Way(key="always-on", name="this worker, always on"),
    Way(key="wake-http", name="woken by HTTP", wakes=True),
    Way(key="wake-2m", name="scheduled every 2 min", scheduler_seconds=120.0),
    Way(key="wake-5m", name="scheduled every 5 min", scheduler_seconds=300.0),
    Way(key="wake-both", name="woken by HTTP + every 5 min", wakes=True, scheduler_seconds=300.0),
)


class Row(Struct, frozen=True, kw_only=True):
    """One way of working: a day's use, a month's bills, and the worst wait for a job's start.

    ``if_signal_lost_seconds`` is that wait if a marker, a wake or a tick is lost; None means that
    the job waits for the next wake.
    """

    way: Way
    idle: Commands
    commands: Commands
    instance_seconds: float
    starts: float = 0.0
    redis: RedisBill
    compute_usd: float
    scheduler_usd: float = 0.0
    worst_pickup_seconds: float
    if_signal_lost_seconds: float | None

    @property
    def total_usd(self) -> float:
        """Redis on its cheapest plan, compute and scheduler."""
        return self.redis.plan_usd + self.compute_usd + self.scheduler_usd


def table(workload: Workload, prices: Prices, hosting: Hosting) -> list[Row]:
    return [(_asleep if way.sleeps else _always_on)(way, workload, prices, hosting) for way in WAYS]


def _always_on(way: Way, workload: Workload, prices: Prices, hosting: Hosting) -> Row:
    if way.bullmq_waits is None:
        idle, work, longest_wait = _idle(workload), _work(workload, _job), workload.idle.longest
    else:
        idle, work = _bullmq_idle(workload, *way.bullmq_waits), _work(workload, _bullmq_job)
        longest_wait = way.bullmq_waits[0]
    seconds, usd = DAY_SECONDS * workload.workers, hosting.always_on_usd_per_month
    return Row(
        way=way,
        idle=idle,
        commands=idle + work,
        instance_seconds=seconds,
        redis=prices.redis.bill(hosting, (idle + work).billable),
        compute_usd=prices.instance_based.usd(hosting, seconds)
        if usd is None
        else usd * workload.workers,
        worst_pickup_seconds=PUSH_SECONDS,
        if_signal_lost_seconds=longest_wait,
    )


def _asleep(way: Way, workload: Workload, prices: Prices, hosting: Hosting) -> Row:
    interval = way.scheduler_seconds or 0.0
    ticks = DAY_SECONDS / interval if interval else 0.0
    calls = workload.jobs_per_day * way.wakes
    # With slots enough for all, work comes in busy periods as in an M/G/inf queue: a job finds
    # no worker awake with probability exp(-load), which is also the idle share of the day.
    wakes = calls * exp(-workload.load)
    busy_seconds = -DAY_SECONDS * expm1(-workload.load)
    starts = wakes + workload.delayed_jobs_per_day + ticks
    seconds = min(busy_seconds + starts * hosting.cold_start_seconds, DAY_SECONDS)
    probes = OUR_PROBE * workload.queues
    start = OUR_CONNECT + probes
    commands = _work(workload, _job) + start * starts + probes * (calls - wakes)
    pickup_seconds = hosting.cold_start_seconds + PUSH_SECONDS + interval * (not way.wakes)
    return Row(
        way=way,
        idle=start * ticks,
        commands=commands,
        instance_seconds=seconds,
        starts=starts,
        redis=prices.redis.bill(hosting, commands.billable),
        compute_usd=prices.request_based.usd(hosting, seconds, ticks + calls),
        scheduler_usd=prices.scheduler.usd(hosting) if interval else 0.0,
        worst_pickup_seconds=pickup_seconds,
        if_signal_lost_seconds=interval + pickup_seconds if interval else None,
    )


def _bullmq_idle(workload: Workload, drain_seconds: float, stalled_seconds: float) -> Commands:
    # One worker for each queue. All delayed jobs are on one queue, and shorten its waits.
    delayed_load = workload.delayed_jobs_per_day * workload.mean_delay_seconds / DAY_SECONDS
    share_of_day = -expm1(-delayed_load)
    waits, capped = DAY_SECONDS / drain_seconds, DAY_SECONDS / BULLMQ_DELAYED_SECONDS
    waits_of_all = workload.queues * waits + share_of_day * (capped - waits)
    checks_of_all = workload.queues * DAY_SECONDS / stalled_seconds
    one_each = BULLMQ_WAIT * waits_of_all + BULLMQ_STALLED_CHECK * checks_of_all
    return one_each * workload.workers


def _idle(workload: Workload) -> Commands:
    waits = waits_per_day(workload.jobs_per_day / workload.workers, workload.idle)
    delayed = OUR_DELAYED_JOB * workload.delayed_jobs_per_day
    return OUR_WAIT * (waits * workload.workers) + delayed


def _work(workload: Workload, job: Callable[[float, float], Commands]) -> Commands:
    """Add up the jobs of a day; ``job`` counts one by its seconds and its progress updates."""
    updates = workload.progress_updates_per_job
    jobs = (job(kind.mean_seconds, updates) * kind.jobs_per_day for kind in workload.kinds)
    return sum(jobs, Commands())


def _bullmq_job(seconds: float, updates: float) -> Commands:
    renewals = LOCK_RENEWAL * (seconds // BULLMQ_RENEWAL_SECONDS)
    return ADD_JOB + BULLMQ_LONE_JOB + renewals + PROGRESS_UPDATE * updates


def _job(seconds: float, updates: float) -> Commands:
    renewals = seconds // RENEWAL_SECONDS
    # At most one update a second is sent, and the last one.
    job = ADD_JOB + OUR_LONE_JOB + PROGRESS_UPDATE * min(updates, seconds + 1)
    checks = OUR_STALLED_CHECK + OUR_LOCK_CHECK * (seconds >= LOCK_SECONDS)
    return job + checks + LOCK_RENEWAL * renewals + OUR_LOCK_CONNECT * (renewals > 0)


def wait_ends(bounds: Bounds) -> list[float]:
    """Return when each wait below the longest ends, in seconds after the last work."""
    waits = [next_wait(None, bounds=bounds, random=0.5)]
    while waits[-1] < bounds.longest:
        waits.append(next_wait(waits[-1], bounds=bounds, random=0.5))
    return [*accumulate(waits[:-1])]


def waits_per_day(jobs_per_day: float, bounds: Bounds) -> float:
    """Return how many waits of one worker run to their end in a day, on average.

    Each job starts the backoff anew; the wait that it ends is in its price. The time to the next
    job is exponential, so a wait that would end t seconds after the last job is reached with
    probability exp(-t x jobs / day). The longest waits repeat: a geometric series.
    """
    rate = jobs_per_day / DAY_SECONDS
    ends = wait_ends(bounds)
    growing = sum(exp(-rate * end) for end in ends)
    grown = exp(-rate * ends[-1]) if ends else 1.0
    jobs_per_longest = min(rate * bounds.longest, 700.0)  # beyond this the series adds nothing
    series = jobs_per_longest / expm1(jobs_per_longest) if jobs_per_longest else 1.0
    return jobs_per_day * growing + DAY_SECONDS / bounds.longest * grown * series
