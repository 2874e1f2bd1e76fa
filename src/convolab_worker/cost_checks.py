"""Pure: the proposal's numbers and the measured ones, beside what the cost model makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convolab_worker import cost_counts as counts
from convolab_worker.cost import TUNED_SECONDS
from convolab_worker.prices import redis_bill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convolab_worker.cost import Row
    from convolab_worker.cost_counts import Commands, Workload
    from convolab_worker.prices import Prices


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One number as the proposal had it, as it was measured, and as this model has it."""

    what: str
    proposal: float | None = None
    measured: float | None = None
    model: float | None
    source: str


# The original proposal: polls counted as one command each, and its two sums of money, for which
# it gave no parts.
PROPOSAL_POLLERS = 4
PROPOSAL_POLLS_PER_DAY = 69_120.0
PROPOSAL_USD_BEFORE = 25.0
PROPOSAL_USD_AFTER = 3.0

# Measured on one machine: Redis 7.0.15, bullmq (Node) 6.7.0, 60 s idle, made a day.
MEASURED_POLLERS_CLIENT_SENT = 149_760.0
MEASURED_POLLERS_BILLABLE = 634_000.0
# Measured with the same versions in other runs, whose lengths are not known here.
MEASURED_DELAYED_BILLABLE = 87_600.0
MEASURED_TUNED_BILLABLE = {1: 4_049.0, 4: 16_196.0}
# Measured by examples/benchmarks/idle.py in steady idle.
MEASURED_OUR_BILLABLE = 96.0


def checks(rows: Sequence[Row], prices: Prices) -> list[Check]:
    """Return the proposal's numbers and the measured ones beside what the model makes of them.

    The two months in USD are those of the described workload, where their rows are given.
    """
    return [*_pollers(), *_tuned(), *_ours(), *_months(rows, prices)]


def _idle(queues: int) -> Workload:
    return counts.Workload(kinds=(), queues=queues)


def _bullmq_defaults(workload: Workload) -> Commands:
    return counts.bullmq_idle_per_day(
        workload,
        drain_seconds=counts.BULLMQ_DRAIN_SECONDS,
        stalled_seconds=counts.BULLMQ_STALLED_SECONDS,
    )


def _pollers() -> list[Check]:
    polling = _bullmq_defaults(_idle(PROPOSAL_POLLERS))
    never_without_delayed = counts.Workload(
        kinds=(), queues=1, delayed_jobs_per_day=1000.0, mean_delay_seconds=counts.DAY_SECONDS
    )
    return [
        Check(
            what="four pollers: polls a day",
            proposal=PROPOSAL_POLLS_PER_DAY,
            model=PROPOSAL_POLLERS * counts.DAY_SECONDS / counts.BULLMQ_DRAIN_SECONDS,
            source="4 x 86,400 s / 5 s",
        ),
        Check(
            what="four pollers: client-sent a day",
            measured=MEASURED_POLLERS_CLIENT_SENT,
            model=polling.client_sent,
            source="60 s idle, made a day",
        ),
        Check(
            what="four pollers: billable a day",
            measured=MEASURED_POLLERS_BILLABLE,
            model=polling.billable,
            source="60 s idle, made a day",
        ),
        Check(
            what="one poller with a delayed job: billable",
            measured=MEASURED_DELAYED_BILLABLE,
            model=_bullmq_defaults(never_without_delayed).billable,
            source="a run, made a day",
        ),
    ]


def _tuned() -> list[Check]:
    return [
        Check(
            what=f"tuned by hand, queues: {queues}: billable",
            measured=measured,
            model=counts.bullmq_idle_per_day(
                _idle(queues), drain_seconds=TUNED_SECONDS, stalled_seconds=TUNED_SECONDS
            ).billable,
            source="a run, made a day",
        )
        for queues, measured in MEASURED_TUNED_BILLABLE.items()
    ]


def _ours() -> list[Check]:
    return [
        Check(
            what=f"this worker, queues: {queues}: billable",
            measured=MEASURED_OUR_BILLABLE,
            model=counts.our_idle_per_day(_idle(queues)).billable,
            source="steady idle",
        )
        for queues in (1, 4)
    ]


def _months(rows: Sequence[Row], prices: Prices) -> list[Check]:
    totals = {row.way.key: row.total_usd for row in rows}
    polls = redis_bill(prices.redis, PROPOSAL_POLLS_PER_DAY)
    return [
        Check(
            what="USD a month: its polls alone",
            model=polls.pay_as_you_go_usd,
            source="Redis, metered",
        ),
        Check(
            what="USD a month before",
            proposal=PROPOSAL_USD_BEFORE,
            model=totals.get("bullmq-polling"),
            source="this workload, first row",
        ),
        Check(
            what="USD a month after",
            proposal=PROPOSAL_USD_AFTER,
            model=totals.get("wake-both"),
            source="this workload, last row",
        ),
    ]
