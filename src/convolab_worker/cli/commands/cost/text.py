"""The cost model's report as text of at most 100 columns."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from convolab_worker._setting_types import format_duration
from convolab_worker.cli.commands.cost import model
from convolab_worker.cli.commands.cost.prices import DAYS_PER_MONTH
from convolab_worker.cli.output import table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convolab_worker.cli.commands.cost.model import Row, Workload
    from convolab_worker.cli.commands.cost.prices import Hosting, Prices

WIDTH = 100
EVENTS = [value for value in vars(model).values() if isinstance(value, model.Event)]
_TEN_THOUSAND, _TEN_MILLION = 1e4, 1e7

_COMMANDS: Mapping[str, Callable[[Row], str]] = {
    "client-sent": lambda row: count(row.commands.client_sent),
    "billable": lambda row: count(row.commands.billable),
    "idle part": lambda row: count(row.idle.billable),
    "starts": lambda row: count(row.starts) if row.way.sleeps else "-",
    "worst wait": lambda row: duration(row.worst_pickup_seconds),
    "signal lost": lambda row: duration(row.if_signal_lost_seconds),
}
_MONEY: Mapping[str, Callable[[Row], str]] = {
    "M commands": lambda row: count(row.redis.commands_per_month / 1e6, 3),
    "metered": lambda row: count(row.redis.pay_as_you_go_usd, 2),
    "plan": lambda row: row.redis.plan,
    "Redis": lambda row: count(row.redis.plan_usd, 2),
    "compute": lambda row: count(row.compute_usd, 2),
    "scheduler": lambda row: count(row.scheduler_usd, 2),
    "total": lambda row: count(row.total_usd, 2),
}
# A line is an assumption. m is the model, w the workload, h the hosting, p the prices.
_NOT_ENOUGH_SLOTS = """\
NOT ENOUGH SLOTS: {w.load:.3g} jobs would run at once, and there are {slots} slots. Jobs pile up, \
and no wait in the table holds.
"""
_ASSUMPTIONS = """\
Billable commands are those that clients send and those that Lua scripts run inside Redis: a \
provider that bills by the command appears to count both.
Jobs come independently of each other, and each is charged as one that comes alone. Jobs that come \
together cost less, with every worker here.
A job sends {w.progress_updates_per_job:g} progress updates, with this worker at most one a second \
and the last one. bullmq renews a lock every {m.BULLMQ_RENEWAL_SECONDS:g} s, this worker every \
{m.RENEWAL_SECONDS:g} s.
bullmq waits {m.BULLMQ_DEFAULTS[0]:g} s at a time (drainDelay; tuned {m.BULLMQ_TUNED[0]:g} s) and \
checks for stalled jobs every {m.BULLMQ_DEFAULTS[1]:g} s (stalledInterval; tuned \
{m.BULLMQ_TUNED[1]:g} s), for each queue and worker.
This worker waits on all queues together. After each job its waits grow from {w.idle.shortest:g} s \
to {w.idle.longest:g} s in {steps} steps. Where it sleeps, every start is a cold one.
{delayed}
The worst wait is the time from add to handler while a slot is free: {push} by push (the worst of \
bullmq Node, measured; this worker is held to no more in the same run), {h.cold_start_seconds:g} s \
more where an instance has to start (--cold-start, not measured), and the scheduler's interval \
where only the scheduler wakes.
A lost signal is a lost marker of a job, wake or tick. An always-on worker looks again when its \
wait ends; a worker that only HTTP wakes looks again at the next wake.
Always on: {host} for each worker process, whatever the number of queues. Asleep: one instance, \
billed from its start until no job runs. Each has {h.vcpu:g} vCPU and {h.memory_gib:g} GiB.
A month is {days:g} days. Free allowances are {free}. Storage, traffic, tax and the API service \
are left out. {p.note}
{p.redis.provider}: metered, {p.redis.pay_as_you_go_usd_per_100000_commands:g} USD for 100,000 \
commands from the first one; free up to {p.redis.free_plan_commands_per_month:,.0f} a month; or \
fixed at {p.redis.fixed_plan_usd_per_month:g} USD a month. (read {p.redis.read}: {p.redis.source})
{p.scheduler.provider}: {p.scheduler.usd_per_job_month:g} USD a month for each job beyond \
{p.scheduler.free_jobs_per_month:g}. (read {p.scheduler.read}: {p.scheduler.source})
"""
_DELAYED = """\
{w.delayed_jobs_per_day:g} of the jobs are delayed or tried again, by {w.mean_delay_seconds:g} s \
on average, all on one queue. While one is there, bullmq waits {m.BULLMQ_DELAYED_SECONDS:g} s at a \
time on that queue. A worker that sleeps starts once for each, and something has to wake it when \
the job is due."""
_COMPUTE = """\
{compute.provider}: {compute.usd_per_vcpu_second:.7f} USD a vCPU-second, \
{compute.usd_per_gib_second:.7f} a GiB-second, {compute.usd_per_million_requests:g} for a million \
requests; free a month: {compute.free_vcpu_seconds_per_month:,.0f} vCPU-seconds, \
{compute.free_gib_seconds_per_month:,.0f} GiB-seconds, \
{compute.free_requests_per_month:,.0f} requests. (read {compute.read}: {compute.source})"""


def as_text(workload: Workload, rows: Sequence[Row], told: Sequence[str]) -> str:
    """Return the workload in one sentence, the tables, and the assumptions."""
    kinds = ", ".join(
        f"{kind.jobs_per_day:g} {kind.name} of {duration(kind.mean_seconds)}"
        for kind in workload.kinds
    )
    described = (
        f"A day of {workload.jobs_per_day:g} jobs ({kinds}), on average {workload.load:.2g} at "
        f"once; queues: {workload.queues}, workers: {workload.workers}, slots of each: "
        f"{workload.concurrency}."
    )
    events = [[event.client_sent, event.billable, event.name] for event in EVENTS]
    blocks = (
        _wrapped(described),
        "Redis commands a day, and how long a job waits for its start",
        _table(rows, _COMMANDS),
        "USD a month, with Redis on its cheapest plan",
        _table(rows, _MONEY),
        "Redis commands of one event",
        table([["client-sent", "billable", "event"], *events]),
        "Assumptions",
        "\n".join(_wrapped(sentence, bullet="- ") for sentence in told),
    )
    return "\n\n".join(blocks)


def assumptions(workload: Workload, prices: Prices, hosting: Hosting) -> list[str]:
    """Return everything that the model assumes, in sentences; a warning comes first."""
    slots = workload.concurrency * workload.workers
    usd = hosting.always_on_usd_per_month
    facts = {"m": model, "w": workload, "h": hosting, "p": prices, "slots": slots}
    text = (_NOT_ENOUGH_SLOTS if workload.load >= slots else "") + _ASSUMPTIONS
    told = text.format(
        **facts,
        steps=len(model.wait_ends(workload.idle)),
        delayed=_DELAYED.format(**facts)
        if workload.delayed_jobs_per_day
        else "No job is delayed, and no attempt fails.",
        push=duration(model.PUSH_SECONDS),
        days=DAYS_PER_MONTH,
        host="an instance billed for its whole life"
        if usd is None
        else f"a host of {usd:,.2f} USD a month",
        free="all for this workload" if hosting.free_tier else "used up by something else",
    )
    compute = (prices.request_based, prices.instance_based)
    return [*told.splitlines(), *(_COMPUTE.format(compute=section) for section in compute)]


def count(number: float, places: int = 0) -> str:
    """Write a number: with its places below ten thousand, in millions from ten million on."""
    if number >= _TEN_MILLION:
        return f"{number / 1e6:,.1f} M"
    return f"{number:,.{places if number < _TEN_THOUSAND else 0}f}"


def duration(seconds: float | None) -> str:
    """Write a time to three digits: ``5.4ms``, ``2.01s``, ``5m``."""
    return "next wake" if seconds is None else format_duration(float(f"{seconds:.3g}"))


def _table(rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]]) -> str:
    cells = ([row.way.name, *(cell(row) for cell in columns.values())] for row in rows)
    return table([["", *columns], *cells], right=True)


def _wrapped(text: str, bullet: str = "") -> str:
    margin = " " * len(bullet)
    wrapper = textwrap.TextWrapper(WIDTH, bullet, margin, break_on_hyphens=False)
    wrapper.break_long_words = False
    return wrapper.fill(text)
