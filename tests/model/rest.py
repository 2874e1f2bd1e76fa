"""The end of a plan: everything comes to rest, and the invariants are checked."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from tests.model.bench import ENDED
from tests.model.world import LATE_SECONDS, LOCK_SECONDS, STOP_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.jobs import Known
    from tests.model.world import Life, World

# All jobs have to end within so many seconds once the network is well: a lock may run out first.
PATIENCE_SECONDS = 7.0
_HOLD_SECONDS = 3.0
_MOST_HOLDS = 8
# "At once", on a busy machine.
_SOON_SECONDS = 1.0
_POLL_SECONDS = 0.01
# A worker at rest has two connections: one for commands, one for the blocking read. Once it has met
# a limit of a queue's own, a third tells it of changes of that.
_CONNECTIONS = 2
_TELLS_OF_LIMITS = "SUBSCRIBE"


async def settle(world: World, threads: set[threading.Thread]) -> None:
    """Await every call, mend the network, await every job, end the worker, and check."""
    await world.answers()
    world.proxy.heal()
    world.jobs.open(for_good=True)
    world.queue.pause(on=False)
    life = await world.fresh_life()
    ended = await (_all_ended_when_held if world.plan.held else _all_ended)(world, life)
    world.close_client()
    await world.answers()
    if ended:
        await _check_rest(world, life)
    life.is_ending = True
    world.call("stop()", life.worker.stop(), STOP_SECONDS)
    await life.ended(STOP_SECONDS)
    await world.answers()
    await _check_nothing_left(world, threads)
    _check_keys(world)
    if ended:
        _check_jobs(world)


# answers to held requests


def check_held_answer(world: World, life: Life, answer: Any) -> None:
    """Note an answer ``drained`` that came while jobs were left or held."""
    if answer.status != "drained" or world.life is not life or not world.plan.held:
        return
    stats = life.worker.stats()
    kept = {name: stats[name] for name in ("running", "parked") if stats[name]}
    if kept:
        world.wrong("drained-while-held", f"drained while the worker has {kept}: {answer}")
        return
    is_alone = len(world.lives) == 1 and not world.drains
    for queue in world.queues:
        places, locks = queue.places(), queue.locks()
        active = places.get("active", [])
        held = [job_id for job_id in active if job_id in locks]
        if held and is_alone:
            world.wrong("drained-while-locked", f"drained while {held} are locked: {answer}")
        elif answer.next_due_at is None and (left := _left_for_long(world, active)):
            world.wrong("drained-for-good", f"drained while {left} are active: {answer}")
        waiting = [*places.get("wait", []), *places.get("prioritized", [])]
        old = [job_id for job_id in waiting if _is_old(world, job_id)]
        # What a limit of the worker's own holds up is due at a time that the answer tells.
        is_limited = world.plan.rate_limit is not None and answer.next_due_at is not None
        if old and not (world.was_stopped or world.plan.hides_jobs or is_limited):
            world.wrong("drained-too-soon", f"drained while {old} are waiting: {answer}")


def _left_for_long(world: World, active: list[str]) -> list[str]:
    """Those of the active jobs that another worker can't have taken just now."""
    since = time.monotonic() - LATE_SECONDS / 3 - world.slack
    begun = {job_id: [run.began for run in world.jobs.of(job_id)] for job_id in active}
    return [job_id for job_id, times in begun.items() if times and times[-1] < since]


def _is_old(world: World, job_id: str) -> bool:
    known = world.jobs.known.get(job_id)
    if known is None or world.jobs.of(job_id) or known.data["children"]:
        return False  # it may have returned to the queue just now
    return known.is_sure and time.monotonic() - known.added_at > LATE_SECONDS / 3 + world.slack


# every job ends


async def _all_ended(world: World, life: Life) -> bool:
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends_at + world.slack:
        if not _unended(world):
            return True
        world.look()
        if life.running.done():
            return False
        if world.plan.hides_jobs:
            life.worker.wake()
        await asyncio.sleep(5 * _POLL_SECONDS)
    world.wrong("not-ended", f"{_unended(world)} after {PATIENCE_SECONDS} s; {_slots(life)}")
    return False


async def _all_ended_when_held(world: World, life: Life) -> bool:
    """Hold again and again until no job is left; wait as long as ``next_due_at`` says."""
    for _ in range(_MOST_HOLDS):
        answers: list[Any] = []
        budget = _HOLD_SECONDS + 2 * world.slack  # a machine that stands still uses a budget up
        world.call("hold()", life.worker.hold(budget), budget + 1, answers.append)
        await world.answers()
        world.look()
        if not answers:
            if life.running.done() or life.is_ending:
                return False
            continue
        answer = answers[0]
        check_held_answer(world, life, answer)
        if not _unended(world):
            return True
        if any(finding.kind == "drained-while-held" for finding in world.findings):
            return False
        if answer.status == "drained" and answer.next_due_at is None:
            text = f"{_unended(world)}, and a hold answered {answer}; {_slots(life)}"
            world.wrong("drained-for-good", text)
            return False
        due = (answer.next_due_at or 0.0) - time.time()
        await asyncio.sleep(min(max(due, 0.0), 2 * LOCK_SECONDS))
    world.wrong("not-ended", f"{_unended(world)} after {_MOST_HOLDS} holds; {_slots(life)}")
    return False


def _unended(world: World) -> dict[str, dict[str, list[str]]]:
    found = {queue.name: queue.unended() for queue in world.queues}
    return {name: places for name, places in found.items() if places}


def _slots(life: Life) -> dict[str, Any]:
    stats = life.worker.stats()
    names = ("state", "phase", "connected", "running", "free", "parked", "outcomes")
    return {name: stats.get(name) for name in names}


# at rest


async def _soon(is_so: Callable[[], bool], seconds: float = _SOON_SECONDS) -> bool:
    ends_at = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > ends_at:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def _check_rest(world: World, life: Life) -> None:
    def has_all_slots() -> bool:
        stats = life.worker.stats()
        used = (stats["running"], stats["parked"])
        return used == (0, 0) and stats["free"] == world.plan.concurrency

    if not await _soon(has_all_slots):
        world.wrong("slots", f"at rest of {world.plan.concurrency} slots: {_slots(life)}")
    if not await _soon(lambda: not any(queue.locks() for queue in world.queues)):
        world.wrong("locks", f"locked at rest: {[queue.locks() for queue in world.queues]}")

    def has_two_connections() -> bool:
        left = world.proxy.left_open()
        telling = [each for each in left if each.endswith(_TELLS_OF_LIMITS)]
        return len(telling) <= 1 and len(left) - len(telling) <= _CONNECTIONS

    if not await _soon(has_two_connections):
        world.wrong("connections", f"at rest: {world.proxy.left_open()}")
    patience = world.plan.sleep_after
    if patience is None:
        return
    if not await _soon(lambda: life.worker.stats()["phase"] == "asleep", patience + _SOON_SECONDS):
        world.wrong("awake", f"not asleep: {_slots(life)}")
    elif not await _soon(lambda: not world.proxy.left_open()):
        world.wrong("connections", f"in its sleep: {world.proxy.left_open()}")


async def _check_nothing_left(world: World, threads: set[threading.Thread]) -> None:
    def tasks() -> list[str]:
        own = {*world.own_tasks, asyncio.current_task()}
        return sorted(task.get_name() for task in asyncio.all_tasks() - own)

    def new_threads() -> list[str]:
        found = {*threading.enumerate()} - threads
        return sorted(thread.name for thread in found if not thread.name.startswith("asyncio_"))

    if not await _soon(lambda: not tasks()):
        world.wrong("tasks-left", f"after the end: {tasks()}")
    if not await _soon(lambda: not new_threads()):
        world.wrong("threads-left", f"after the end: {new_threads()}")
    if not await _soon(lambda: not world.proxy.left_open()):
        world.wrong("connections-left", f"after the end: {world.proxy.left_open()}")
        return
    world.proxy.cut()
    if not await _soon(lambda: not world.bench.strangers()):
        world.wrong("connections-left", f"after the end: {world.bench.strangers()}")


def _check_keys(world: World) -> None:
    for queue in world.queues:
        if garbage := queue.garbage():
            world.wrong("garbage", f"keys of no job: {garbage}")


# what became of the jobs


def _check_jobs(world: World) -> None:
    is_gentle = world.plan.is_gentle and world.max_lag < LOCK_SECONDS / 5
    found = [queue.places() for queue in world.queues]
    for known in world.jobs.known.values():
        states = [state for places in found for state, ids in places.items() if known.id in ids]
        if not states and (known.may_vanish or not known.is_sure):
            continue
        if len(states) != 1 or not {*states} <= (ENDED if known.may_vanish else known.ends):
            world.wrong("wrong-end", f"{known.id} is {states}, and may be {known.ends}")
        elif is_gentle and not known.is_disturbed:
            _check_gently(world, known)
    if is_gentle and not any(known.is_disturbed for known in world.jobs.known.values()):
        for life in world.lives:
            if lost := life.worker.stats().get("outcomes", {}).get("lost"):
                world.wrong("said-lost", f"{lost} jobs are said to be lost")


def _check_gently(world: World, known: Known) -> None:
    """Check a job whose lock can't have run out: each of its runs counts, and no other."""
    runs = world.jobs.of(known.id)
    returned = [run for run in runs if run.how == "returned"]
    if len(returned) > 1:
        world.wrong("ran-twice", f"{known.id} returned {len(returned)} times")
    if any(b.began < (a.ended or 0.0) for a, b in itertools.pairwise(runs)):
        world.wrong("ran-twice", f"{known.id} ran twice at once")
    for queue in world.queues:
        name, stalled, used = queue.fields(known.id, "name", "stc", "atm")
        if name is None:
            continue
        if stalled not in (None, "0"):
            world.wrong("stalled", f"{known.id} was counted as stalled: {stalled}")
        is_plain = known.data["kind"] not in ("timed", "parent")
        if is_plain and used != str(known.uses):
            world.wrong("attempts", f"{known.id} used {used} attempts instead of {known.uses}")
