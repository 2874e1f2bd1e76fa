"""What providers charge: dated prices from one data file, and bills made from them.

Pure, but for :func:`load_prices`. All money is USD, a month is thirty days.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar

from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

DAYS_PER_MONTH = 30.0

_TEXT_FIELDS = ("provider", "source", "read")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisPrices:
    """The plans of a Redis provider that bills by the command."""

    provider: str
    source: str
    read: str
    free_plan_commands_per_month: float
    pay_as_you_go_usd_per_100000_commands: float
    fixed_plan_usd_per_month: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputePrices:
    """What a second of an instance costs, and how much of it a month is free."""

    provider: str
    source: str
    read: str
    usd_per_vcpu_second: float
    usd_per_gib_second: float
    usd_per_million_requests: float
    free_vcpu_seconds_per_month: float
    free_gib_seconds_per_month: float
    free_requests_per_month: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerPrices:
    """What one job of a scheduler costs a month, however often it runs."""

    provider: str
    source: str
    read: str
    usd_per_job_month: float
    free_jobs_per_month: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Every price that the cost model uses; ``read`` says when each was looked up."""

    note: str
    redis: RedisPrices
    request_based: ComputePrices
    instance_based: ComputePrices
    scheduler: SchedulerPrices


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisBill:
    """A month of Redis: by the command, and by the cheapest plan that serves it."""

    commands_per_month: float
    pay_as_you_go_usd: float
    plan: str
    plan_usd: float


def redis_bill(
    prices: RedisPrices, billable_commands_per_day: float, *, free_tier: bool = True
) -> RedisBill:
    """Return what a month of so many billable commands a day costs.

    Pay as you go is charged from the first command. With ``free_tier`` false, the free plan is
    taken by something else.
    """
    commands = billable_commands_per_day * DAYS_PER_MONTH
    pay_as_you_go = commands / 100_000 * prices.pay_as_you_go_usd_per_100000_commands
    plans = [(pay_as_you_go, "metered"), (prices.fixed_plan_usd_per_month, "fixed")]
    if free_tier and commands <= prices.free_plan_commands_per_month:
        plans.insert(0, (0.0, "free"))
    usd, plan = min(plans, key=lambda offer: offer[0])
    return RedisBill(
        commands_per_month=commands, pay_as_you_go_usd=pay_as_you_go, plan=plan, plan_usd=usd
    )


def compute_usd(
    prices: ComputePrices,
    *,
    vcpu_seconds_per_day: float,
    gib_seconds_per_day: float,
    requests_per_day: float,
    free_tier: bool = True,
) -> float:
    """Return what a month of so much compute a day costs, beyond what is free."""
    free = 1.0 if free_tier else 0.0
    amounts = (
        (vcpu_seconds_per_day, prices.free_vcpu_seconds_per_month, prices.usd_per_vcpu_second),
        (gib_seconds_per_day, prices.free_gib_seconds_per_month, prices.usd_per_gib_second),
        (
            requests_per_day,
            prices.free_requests_per_month,
            prices.usd_per_million_requests / 1_000_000,
        ),
    )
    return sum(
        max(per_day * DAYS_PER_MONTH - free * free_per_month, 0.0) * usd
        for per_day, free_per_month, usd in amounts
    )


def scheduler_usd(prices: SchedulerPrices, jobs: int, *, free_tier: bool = True) -> float:
    """Return what so many jobs of the scheduler cost a month."""
    free = prices.free_jobs_per_month if free_tier else 0.0
    return max(jobs - free, 0.0) * prices.usd_per_job_month


def load_prices(path: Path | None = None) -> Prices:
    """Read the prices that ship with the package, or those of ``path``.

    Raises ConfigurationError that names the file, the field and what was expected.
    """
    where = "the package's prices.json" if path is None else str(path)
    try:
        text = _shipped() if path is None else path.read_text(encoding="utf-8")
        document = json.loads(text)
    except (OSError, ValueError) as error:
        msg = f"{where}: expected a JSON file of prices: {error}"
        raise ConfigurationError(msg) from error
    return parse_prices(document, where)


def parse_prices(document: Any, where: str) -> Prices:
    """Check a document of prices; ``where`` names it in errors (ConfigurationError)."""
    if not isinstance(document, dict):
        msg = f"{where}: expected an object, got {type(document).__name__}"
        raise ConfigurationError(msg)
    if document.get("currency", "USD") != "USD":
        msg = f"{where}: currency: expected USD, got {document['currency']!r}"
        raise ConfigurationError(msg)
    return Prices(
        note=str(document.get("note", "")),
        redis=_section(RedisPrices, document, "redis", where),
        request_based=_section(ComputePrices, document, "request_based", where),
        instance_based=_section(ComputePrices, document, "instance_based", where),
        scheduler=_section(SchedulerPrices, document, "scheduler", where),
    )


def _shipped() -> str:
    from importlib.resources import files

    return (files("convolab_worker") / "data" / "prices.json").read_text(encoding="utf-8")


_Section = TypeVar("_Section", RedisPrices, ComputePrices, SchedulerPrices)


def _section(kind: type[_Section], document: dict[str, Any], name: str, where: str) -> _Section:
    given = document.get(name)
    if not isinstance(given, dict):
        msg = f"{where}: {name}: expected an object with {', '.join(_names(kind))}"
        raise ConfigurationError(msg)
    unknown = sorted(set(given) - set(_names(kind)))
    if unknown:
        msg = f"{where}: {name}.{unknown[0]}: expected one of {', '.join(_names(kind))}"
        raise ConfigurationError(msg)
    values: dict[str, Any] = {field: _value(given, name, field, where) for field in _names(kind)}
    return kind(**values)


def _names(kind: type[RedisPrices | ComputePrices | SchedulerPrices]) -> list[str]:
    return [field.name for field in fields(kind)]


def _value(given: dict[str, Any], section: str, field: str, where: str) -> str | float:
    value = given.get(field)
    if field in _TEXT_FIELDS:
        if isinstance(value, str) and value:
            return value
        expected = "text"
    else:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            amount = float(value)
            if isfinite(amount) and amount >= 0:
                return amount
        expected = "a number, 0 or more"
    msg = f"{where}: {section}.{field}: expected {expected}, got {value!r}"
    raise ConfigurationError(msg)
