"""Pure: every assumption behind the cost model's tables, as sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker import cost_counts as counts
from convolab_worker.cost import PUSH_PICKUP_SECONDS, TUNED_SECONDS
from convolab_worker.prices import DAYS_PER_MONTH

if TYPE_CHECKING:
    from convolab_worker.cost import Hosting
    from convolab_worker.cost_counts import Commands, Workload
    from convolab_worker.prices import ComputePrices, Prices, RedisPrices, SchedulerPrices


def assumptions(workload: Workload, prices: Prices, hosting: Hosting) -> list[str]:
    """Return every assumption, a sentence or two each; a warning comes first."""
    return [
        *_warnings(workload),
        (
            "Billable is what clients send and what Lua scripts run inside Redis, as a provider "
            "that bills by the command appears to count. In brackets: [client-sent/billable]."
        ),
        (
            "Jobs come independently of each other, and each is charged as one that comes alone. "
            "Those that come together cost less, with every worker here."
        ),
        _on_jobs(workload),
        _on_bullmq_idle(),
        _on_our_idle(workload),
        _on_delayed(workload),
        _on_worst_waits(hosting),
        (
            "Signal lost: the marker that announces a job, or one wake or tick. An always-on "
            "worker looks again when its wait ends; one waked by HTTP only, at the next wake."
        ),
        _on_hosting(hosting),
        *_on_prices(prices, hosting),
    ]


def _warnings(workload: Workload) -> list[str]:
    slots = workload.concurrency * workload.workers
    if workload.load < slots:
        return []
    return [
        (
            f"NOT ENOUGH SLOTS: {workload.load:.3g} jobs would run at once, and there are {slots} "
            "slots. Jobs pile up, and no wait in the table holds."
        )
    ]


def _on_jobs(workload: Workload) -> str:
    return (
        f"A job: its add {_told(counts.ADD_JOB)}; its run, {_told(counts.BULLMQ_LONE_JOB)} with "
        f"bullmq and {_told(counts.OUR_LONE_JOB)} with this worker; "
        f"{workload.progress_updates_per_job:g} progress updates of "
        f"{_told(counts.PROGRESS_UPDATE)}, with this worker at most one a second and the last; "
        f"and renewals of its lock of {_told(counts.LOCK_RENEWAL)}, every "
        f"{counts.BULLMQ_RENEWAL_SECONDS:g} s with bullmq and every "
        f"{counts.OUR_RENEWAL_SECONDS:g} s with this worker, which also looks once for stalled "
        f"jobs, {_told(counts.OUR_STALLED_LOOK)}, {counts.OUR_LOCK_SECONDS:g} s after each."
    )


def _on_bullmq_idle() -> str:
    return (
        f"bullmq idle, for each queue and worker: {_told(counts.BULLMQ_WAIT)} every drainDelay "
        f"({counts.BULLMQ_DRAIN_SECONDS:g} s; tuned {TUNED_SECONDS:g} s) and "
        f"{_told(counts.BULLMQ_STALLED_CHECK)} every stalledInterval "
        f"({counts.BULLMQ_STALLED_SECONDS:g} s; tuned {TUNED_SECONDS:g} s)."
    )


def _on_our_idle(workload: Workload) -> str:
    idle = workload.idle
    return (
        f"This worker idle: {_told(counts.OUR_WAIT)} a wait, over all queues together; after each "
        f"job the waits grow from {idle.shortest:g} s to {idle.longest:g} s in "
        f"{len(counts.wait_ends(idle))} steps. Started, which is always from cold: "
        f"{_told(counts.our_start(workload))}. Waked while awake: "
        f"{_told(counts.our_look(workload))}."
    )


def _on_delayed(workload: Workload) -> str:
    if not workload.delayed_jobs_per_day:
        return "No job is delayed, and no attempt fails."
    return (
        f"{workload.delayed_jobs_per_day:g} of the jobs are delayed, by "
        f"{workload.mean_delay_seconds:g} s on average, all on one queue. While one is there, "
        f"bullmq waits {counts.BULLMQ_DELAYED_CAP_SECONDS:g} s at a time on that queue; this "
        f"worker needs at most {_told(counts.OUR_DELAYED_JOB)} for each. Where it sleeps, a start "
        "is counted for each, and something has to give it that wake when the job is due."
    )


def _on_worst_waits(hosting: Hosting) -> str:
    return (
        f"Worst wait, from add to handler while a slot is free: {PUSH_PICKUP_SECONDS * 1000:g} ms "
        "by push (the worst of bullmq Node, measured; this worker is held to no more than that in "
        f"the same run), {hosting.cold_start_seconds:g} s more where an instance has to start "
        "(--cold-start, not measured), and the scheduler's interval where only it wakes."
    )


def _on_hosting(hosting: Hosting) -> str:
    host = (
        "an instance billed for its whole life"
        if hosting.always_on_usd_per_month is None
        else f"a host of {hosting.always_on_usd_per_month:,.2f} USD a month"
    )
    return (
        f"Always on: {host} for each worker process, whatever the number of queues. Asleep: one "
        "instance, billed from the start that a wake causes until no job runs. "
        f"{hosting.vcpu:g} vCPU and {hosting.memory_gib:g} GiB each."
    )


def _on_prices(prices: Prices, hosting: Hosting) -> list[str]:
    redis, scheduler = prices.redis, prices.scheduler
    free = "all this workload's own" if hosting.free_tier else "used up by something else"
    return [
        (
            f"A month is {DAYS_PER_MONTH:g} days. Free allowances are {free}. Left out: storage, "
            f"traffic, tax, and what the API service costs. {prices.note}"
        ),
        (
            f"{redis.provider}: metered, {redis.pay_as_you_go_usd_per_100000_commands:g} USD for "
            "100,000 commands from the first one; free up to "
            f"{redis.free_plan_commands_per_month:,.0f} a month; or fixed at "
            f"{redis.fixed_plan_usd_per_month:g} USD a month. {_read(redis)}"
        ),
        _on_compute(prices.request_based),
        _on_compute(prices.instance_based),
        (
            f"{scheduler.provider}: {scheduler.usd_per_job_month:g} USD a month for a job beyond "
            f"{scheduler.free_jobs_per_month:g}. {_read(scheduler)}"
        ),
    ]


def _on_compute(compute: ComputePrices) -> str:
    return (
        f"{compute.provider}: {compute.usd_per_vcpu_second * 1e6:g} USD for a million "
        f"vCPU-seconds, {compute.usd_per_gib_second * 1e6:g} for a million GiB-seconds, "
        f"{compute.usd_per_million_requests:g} for a million requests; free a month: "
        f"{compute.free_vcpu_seconds_per_month:,.0f} vCPU-seconds, "
        f"{compute.free_gib_seconds_per_month:,.0f} GiB-seconds, "
        f"{compute.free_requests_per_month:,.0f} requests. {_read(compute)}"
    )


def _read(section: RedisPrices | ComputePrices | SchedulerPrices) -> str:
    return f"(read {section.read}: {section.source})"


def _told(commands: Commands) -> str:
    return f"[{commands.client_sent:g}/{commands.billable:g}]"
