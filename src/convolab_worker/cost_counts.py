"""Pure: how many Redis commands a described workload takes, idle and working.

What one event costs is a named constant, each with where its number comes from; the rest is
arithmetic over a day. Jobs arrive independently of each other (a Poisson process) and each is
charged as a job that arrives alone: the dearest way for jobs to come.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import exp, expm1, isfinite

from convolab_worker.bullmq.protocol import script_costs
from convolab_worker.errors import ConfigurationError
from convolab_worker.worker.dispatch.idle_backoff import Bounds, next_wait

DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """Redis commands: those that clients send, and those that a bill counts (Lua's too)."""

    client_sent: float
    billable: float

    def __add__(self, other: Commands) -> Commands:
        """Add both counts."""
        return Commands(
            client_sent=self.client_sent + other.client_sent,
            billable=self.billable + other.billable,
        )

    def times(self, factor: float) -> Commands:
        """Return these commands, ``factor`` times over."""
        return Commands(client_sent=self.client_sent * factor, billable=self.billable * factor)


def _script(inner: int) -> Commands:
    return Commands(client_sent=1, billable=1 + inner)


def _plain(commands: int) -> Commands:
    return Commands(client_sent=commands, billable=commands)


NO_COMMANDS = _plain(0)

# What the scripts run inside Redis is the same whoever calls them: see `estimates`. The API that
# adds the jobs leaves their ids to BullMQ.
ADD_JOB = _script(script_costs.ADD_NUMBERED)
PROGRESS_UPDATE = _script(script_costs.PROGRESS)
LOCK_RENEWAL = _script(script_costs.RENEWAL)

# bullmq (Node) 6.7.0, measured by examples/benchmarks at concurrency 1; its wait is BZPOPMIN
# and a moveToActive that finds nothing.
BULLMQ_WAIT = _plain(1) + _script(6)
BULLMQ_STALLED_CHECK = _script(6)
BULLMQ_LONE_JOB = Commands(client_sent=5, billable=42)
BULLMQ_DRAIN_SECONDS = 5.0
BULLMQ_STALLED_SECONDS = 30.0
BULLMQ_DELAYED_CAP_SECONDS = 10.0
BULLMQ_RENEWAL_SECONDS = 15.0

# This worker, measured by examples/benchmarks; its wait is BZPOPMIN and one EXISTS, each over
# all queues. A lone job is beside its add, its lock, its progress and the look after it.
OUR_WAIT = _plain(2)
OUR_LONE_JOB = Commands(client_sent=5, billable=32)
OUR_DELAYED_JOB = Commands(client_sent=3, billable=9)  # beside what the job costs anyway
OUR_CONNECT = _plain(2)  # two connections, and the id of each
OUR_LOOK = _plain(1)  # for each queue, when it starts or is waked: one EXISTS
OUR_STALLED_LOOK = _plain(1)  # a lock's length after a job started: LRANGE of the active jobs
OUR_LOCK_LOOK = _plain(1)  # PTTL of a job that still runs then
OUR_LOCK_SECONDS = 60.0
OUR_RENEWAL_SECONDS = OUR_LOCK_SECONDS * 3 / 8
OUR_LOCK_CONNECT = _plain(1)  # the keeper of locks connects for its first renewal

STANDARD_IDLE = Bounds(shortest=5.0, longest=1800.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobKind:
    """So many jobs a day of one kind, and how long one runs."""

    name: str
    jobs_per_day: float
    mean_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is to be done in a day, and with how many queues, workers and slots.

    ``idle`` bounds the waits of this worker's adaptive backoff. Raises ConfigurationError that
    names the first number which makes no sense.
    """

    kinds: tuple[JobKind, ...]
    queues: int = 4
    workers: int = 1
    concurrency: int = 8
    progress_updates_per_job: float = 10.0
    delayed_jobs_per_day: float = 0.0
    mean_delay_seconds: float = 0.0
    idle: Bounds = STANDARD_IDLE

    def __post_init__(self) -> None:
        """Check every number."""
        amounts = {
            "progress updates a job": self.progress_updates_per_job,
            "delayed jobs a day": self.delayed_jobs_per_day,
            "mean delay": self.mean_delay_seconds,
        }
        for kind in self.kinds:
            amounts[f"{kind.name} jobs a day"] = kind.jobs_per_day
            amounts[f"seconds of one {kind.name} job"] = kind.mean_seconds
        require(amounts, least=0.0, expected="a finite number, 0 or more")
        counts = {
            "queues": float(self.queues),
            "workers": float(self.workers),
            "concurrency": float(self.concurrency),
        }
        require(counts, least=1.0, expected="a whole number, 1 or more")
        if not 0.0 < self.idle.shortest <= self.idle.longest < float("inf"):
            msg = (
                f"idle waits from {self.idle.shortest:g} to {self.idle.longest:g} s: "
                "expected both above 0, the longest no less than the shortest"
            )
            raise ConfigurationError(msg)

    @property
    def jobs_per_day(self) -> float:
        """Jobs of all kinds."""
        return sum(kind.jobs_per_day for kind in self.kinds)

    @property
    def load(self) -> float:
        """Jobs running at once, on average."""
        return sum(kind.jobs_per_day * kind.mean_seconds for kind in self.kinds) / DAY_SECONDS


def require(numbers: dict[str, float], *, least: float, expected: str) -> None:
    """Raise ConfigurationError for the first number that is below ``least`` or not finite."""
    for name, value in numbers.items():
        if not (isfinite(value) and value >= least):
            msg = f"{name}: expected {expected}, got {value!r}"
            raise ConfigurationError(msg)


def bullmq_idle_per_day(
    workload: Workload, *, drain_seconds: float, stalled_seconds: float
) -> Commands:
    """Return what bullmq (Node) sends while nothing happens: one worker for each queue.

    A delayed job sets the waits of its queue to 10 s for as long as it is there; all of them are
    taken to be on one queue.
    """
    delayed_load = workload.delayed_jobs_per_day * workload.mean_delay_seconds / DAY_SECONDS
    share_of_day = -expm1(-delayed_load)
    waits = DAY_SECONDS / drain_seconds
    capped = DAY_SECONDS / BULLMQ_DELAYED_CAP_SECONDS
    waits_of_all = workload.queues * waits + share_of_day * (capped - waits)
    checks_of_all = workload.queues * DAY_SECONDS / stalled_seconds
    one_each = BULLMQ_WAIT.times(waits_of_all) + BULLMQ_STALLED_CHECK.times(checks_of_all)
    return one_each.times(workload.workers)


def wait_ends(bounds: Bounds) -> list[float]:
    """Return when each wait below the longest ends, in seconds after the last work was seen."""
    waits: list[float] = []
    wait = next_wait(None, bounds=bounds, random=0.5)
    while wait < bounds.longest:
        waits.append(wait)
        wait = next_wait(wait, bounds=bounds, random=0.5)
    return list(accumulate(waits))


def our_waits_per_day(jobs_per_day: float, bounds: Bounds) -> float:
    """Return how many waits of one worker run to their end in a day, on average.

    Each job starts the backoff anew, and the wait that a job ends is in that job's price. The
    time to the next job is exponential: a wait that would end t seconds after the last job is
    reached with probability exp(-t x jobs / day), and the longest ones follow each other without
    end (a geometric series).
    """
    rate = jobs_per_day / DAY_SECONDS
    ends = wait_ends(bounds)
    growing = sum(exp(-rate * end) for end in ends)
    grown = exp(-rate * ends[-1]) if ends else 1.0
    jobs_per_longest = min(rate * bounds.longest, 700.0)  # beyond, nothing is left of the series
    series = jobs_per_longest / expm1(jobs_per_longest) if jobs_per_longest else 1.0
    return jobs_per_day * growing + DAY_SECONDS / bounds.longest * grown * series


def our_idle_per_day(workload: Workload) -> Commands:
    """Return what this worker sends while it waits; the number of queues has no part in it."""
    waits = our_waits_per_day(workload.jobs_per_day / workload.workers, workload.idle)
    waiting = OUR_WAIT.times(waits * workload.workers)
    return waiting + OUR_DELAYED_JOB.times(workload.delayed_jobs_per_day)


def bullmq_work_per_day(workload: Workload) -> Commands:
    """Return what the jobs cost with bullmq: added, run, locks renewed, every progress told."""
    total = NO_COMMANDS
    for kind in workload.kinds:
        job = (
            ADD_JOB
            + BULLMQ_LONE_JOB
            + PROGRESS_UPDATE.times(workload.progress_updates_per_job)
            + LOCK_RENEWAL.times(kind.mean_seconds // BULLMQ_RENEWAL_SECONDS)
        )
        total += job.times(kind.jobs_per_day)
    return total


def our_work_per_day(workload: Workload) -> Commands:
    """Return what the jobs cost with this worker.

    Progress is told at most once a second and at the end. A lock's length after a job started,
    the worker looks once whether active jobs are left that are not its own.
    """
    total = NO_COMMANDS
    for kind in workload.kinds:
        updates = min(workload.progress_updates_per_job, kind.mean_seconds + 1)
        renewals = kind.mean_seconds // OUR_RENEWAL_SECONDS
        job = (
            ADD_JOB
            + OUR_LONE_JOB
            + OUR_STALLED_LOOK
            + (OUR_LOCK_LOOK if kind.mean_seconds >= OUR_LOCK_SECONDS else NO_COMMANDS)
            + PROGRESS_UPDATE.times(updates)
            + LOCK_RENEWAL.times(renewals)
            + (OUR_LOCK_CONNECT if renewals else NO_COMMANDS)
        )
        total += job.times(kind.jobs_per_day)
    return total


def our_look(workload: Workload) -> Commands:
    """Return what this worker sends when it is waked while awake: a look at every queue."""
    return OUR_LOOK.times(workload.queues)


def our_start(workload: Workload) -> Commands:
    """Return what this worker sends when it starts: it connects, and looks at every queue."""
    return OUR_CONNECT + our_look(workload)
