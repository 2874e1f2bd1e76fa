"""What providers charge, in the form of prices.json, and a month's bills in USD. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Literal

DAYS_PER_MONTH = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """What a worker runs on; ``free_tier`` is false if something else uses up what is free.

    ``always_on_usd_per_month`` is the price of an always-on host that is not a Cloud Run instance.
    """

    vcpu: float
    memory_gib: float
    cold_start_seconds: float
    free_tier: bool
    always_on_usd_per_month: float | None

    def billed(self, used: float, free: float) -> float:
        """Return the part of a month's use that is billed, after the free allowance."""
        return max(used - free * self.free_tier, 0.0)


@dataclass(frozen=True, slots=True)
class RedisBill:
    """A month of Redis: by the command, and on the cheapest plan that serves it."""

    commands_per_month: float
    pay_as_you_go_usd: float
    plan: str
    plan_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One provider's prices, the page that has them, and the day on which somebody read it."""

    provider: str
    source: str
    read: str

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value == "" or not (isinstance(value, str) or 0 <= value < inf):
                msg = f"{name}: expected text, or a number that is 0 or more; got {value!r}"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisPrices(Section):
    """The plans of a Redis provider that bills by the command, from the first command on."""

    free_plan_commands_per_month: float
    pay_as_you_go_usd_per_100000_commands: float
    fixed_plan_usd_per_month: float

    def bill(self, hosting: Hosting, billable_per_day: float) -> RedisBill:
        """Return the bill for a month with this many commands a day."""
        commands = billable_per_day * DAYS_PER_MONTH
        metered = commands / 100_000 * self.pay_as_you_go_usd_per_100000_commands
        plans = [(metered, "metered"), (self.fixed_plan_usd_per_month, "fixed")]
        if hosting.free_tier and commands <= self.free_plan_commands_per_month:
            plans.insert(0, (0.0, "free"))
        usd, plan = min(plans, key=lambda offer: offer[0])
        return RedisBill(commands, metered, plan, usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputePrices(Section):
    """What the seconds and the requests of instances cost, beyond those that are free."""

    usd_per_vcpu_second: float
    usd_per_gib_second: float
    usd_per_million_requests: float
    free_vcpu_seconds_per_month: float
    free_gib_seconds_per_month: float
    free_requests_per_month: float

    def usd(self, hosting: Hosting, seconds: float, requests: float = 0.0) -> float:
        """Return the price of a month with these instance seconds and requests a day."""
        vcpu, memory = seconds * hosting.vcpu, seconds * hosting.memory_gib
        billed = (
            (vcpu, self.free_vcpu_seconds_per_month, self.usd_per_vcpu_second),
            (memory, self.free_gib_seconds_per_month, self.usd_per_gib_second),
            (requests, self.free_requests_per_month, self.usd_per_million_requests / 1e6),
        )
        return sum(hosting.billed(used * DAYS_PER_MONTH, free) * usd for used, free, usd in billed)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerPrices(Section):
    """What a month of a scheduler's job costs, however often it runs."""

    usd_per_job_month: float
    free_jobs_per_month: float

    def usd(self, hosting: Hosting) -> float:
        """Return the price of a month with one such job."""
        return hosting.billed(1, self.free_jobs_per_month) * self.usd_per_job_month


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Every price that the model uses."""

    currency: Literal["USD"] = "USD"
    note: str = ""
    redis: RedisPrices
    request_based: ComputePrices
    instance_based: ComputePrices
    scheduler: SchedulerPrices
