"""What providers charge, in the form of prices.json, and a month's bills in USD. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

DAYS_PER_MONTH = 30.0
Words = Annotated[str, Meta(min_length=1)]
Amount = Annotated[float, Meta(ge=0, le=1e300)]


class Hosting(Struct, frozen=True, kw_only=True):
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


class RedisBill(Struct, frozen=True):
    """A month of Redis: by the command, and on the cheapest plan that serves it."""

    commands_per_month: float
    pay_as_you_go_usd: float
    plan: str
    plan_usd: float


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """One provider's prices, the page that has them, and the day on which somebody read it."""

    provider: Words
    source: Words
    read: Words


class RedisPrices(Section, frozen=True):
    """The plans of a Redis provider that bills by the command, from the first command on."""

    free_plan_commands_per_month: Amount
    pay_as_you_go_usd_per_100000_commands: Amount
    fixed_plan_usd_per_month: Amount

    def bill(self, hosting: Hosting, billable_per_day: float) -> RedisBill:
        """Return the bill for a month with this many commands a day."""
        commands = billable_per_day * DAYS_PER_MONTH
        metered = commands / 100_000 * self.pay_as_you_go_usd_per_100000_commands
        plans = [(metered, "metered"), (self.fixed_plan_usd_per_month, "fixed")]
        if hosting.free_tier and commands <= self.free_plan_commands_per_month:
            plans.insert(0, (0.0, "free"))
        usd, plan = min(plans, key=lambda offer: offer[0])
        return RedisBill(commands, metered, plan, usd)


class ComputePrices(Section, frozen=True):
    """What the seconds and the requests of instances cost, beyond those that are free."""

    usd_per_vcpu_second: Amount
    usd_per_gib_second: Amount
    usd_per_million_requests: Amount
    free_vcpu_seconds_per_month: Amount
    free_gib_seconds_per_month: Amount
    free_requests_per_month: Amount

    def usd(self, hosting: Hosting, seconds: float, requests: float = 0.0) -> float:
        """Return the price of a month with these instance seconds and requests a day."""
        vcpu, memory = seconds * hosting.vcpu, seconds * hosting.memory_gib
        billed = (
            (vcpu, self.free_vcpu_seconds_per_month, self.usd_per_vcpu_second),
            (memory, self.free_gib_seconds_per_month, self.usd_per_gib_second),
            (requests, self.free_requests_per_month, self.usd_per_million_requests / 1e6),
        )
        return sum(hosting.billed(used * DAYS_PER_MONTH, free) * usd for used, free, usd in billed)


class SchedulerPrices(Section, frozen=True):
    """What a month of a scheduler's job costs, however often it runs."""

    usd_per_job_month: Amount
    free_jobs_per_month: Amount

    def usd(self, hosting: Hosting) -> float:
        """Return the price of a month with one such job."""
        return hosting.billed(1, self.free_jobs_per_month) * self.usd_per_job_month


class Prices(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every price that the model uses."""

    currency: Literal["USD"] = "USD"
    note: str = ""
    redis: RedisPrices
    request_based: ComputePrices
    instance_based: ComputePrices
    scheduler: SchedulerPrices
