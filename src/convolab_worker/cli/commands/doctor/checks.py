"""Verdicts on a Redis server and what is in it: pure, from facts that somebody gathered.

A fact is None where the server would not tell it, as providers' often don't: then the verdict is
``unknown``, which is no failure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

OK, WARNING, FAILURE, UNKNOWN = "ok", "warning", "failure", "unknown"
_OLDEST = (6, 2)
_SLOW_SECONDS = 0.05
_CLOCK_SECONDS = 1.0
_FULL, _NEARLY_FULL = 0.95, 0.8
# Providers that bill, or can bill, by the command; by the end of the host's name.
_BY_THE_COMMAND = {".upstash.io": "Upstash"}
_FORKS = {"valkey": "Valkey", "dragonfly": "Dragonfly", "keydb": "KeyDB"}
_REFUSED, _FIRST_ERROR = (401, 403), 400
_VERSION = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found: its verdict, why it matters, and what to do where it is not ok."""

    check: str
    verdict: str
    found: str
    why: str = ""
    advice: str = ""


def _known(value: object) -> str:
    return "the server does not tell" if value is None else str(value)


def server(info: Mapping[str, str] | None) -> Finding:
    """The server's kind and version."""
    if not info or "redis_version" not in info:
        return Finding(check="server", verdict=UNKNOWN, found="the server does not tell")
    fork = next((_FORKS[name] for name in _FORKS if _is_fork(name, info)), "Redis")
    version = info.get(f"{fork.lower()}_version", info["redis_version"])
    speaks = _VERSION.search(info["redis_version"])
    found = f"{fork} {version}"
    if speaks and (int(speaks[1]), int(speaks[2])) < _OLDEST:
        return Finding(
            check="server",
            verdict=FAILURE,
            found=found,
            why="BullMQ's scripts need commands that it does not have",
            advice="use Redis 6.2 or later, or Valkey",
        )
    if fork in {"Dragonfly", "KeyDB"}:
        return Finding(
            check="server",
            verdict=WARNING,
            found=found,
            why="this library is tested on Redis and Valkey",
            advice="try a copy of your workload on it first",
        )
    return Finding(check="server", verdict=OK, found=found)


def _is_fork(name: str, info: Mapping[str, str]) -> bool:
    return f"{name}_version" in info or info.get("server_name", "").lower() == name


def role(info: Mapping[str, str] | None) -> Finding:
    """Whether the server takes writes."""
    found = (info or {}).get("role")
    if found in {"slave", "replica"}:
        return Finding(
            check="role",
            verdict=FAILURE,
            found="a replica",
            why="a worker has to write",
            advice="point REDIS_URL at the primary",
        )
    return Finding(check="role", verdict=OK if found else UNKNOWN, found=_known(found))


def eviction(policy: str | None, most_memory: int | None) -> Finding:
    """What the server does when its memory is full."""
    why = "under any other policy than noeviction a full server throws jobs away"
    if policy is None:
        return Finding(check="eviction", verdict=UNKNOWN, found=_known(None), why=why)
    if policy == "noeviction":
        return Finding(check="eviction", verdict=OK, found=policy)
    return Finding(
        check="eviction",
        verdict=WARNING if most_memory == 0 else FAILURE,
        found=policy,
        why=why,
        advice="CONFIG SET maxmemory-policy noeviction, or the provider's setting for it",
    )


def memory(used: int | None, most: int | None) -> Finding:
    """How full the server's memory is."""
    if used is None or most is None:
        return Finding(check="memory", verdict=UNKNOWN, found=_known(None))
    found = f"{used / 2**20:.0f} MiB used"
    if not most:
        return Finding(check="memory", verdict=OK, found=f"{found}, no limit set")
    part = used / most
    return Finding(
        check="memory",
        verdict=FAILURE if part > _FULL else WARNING if part > _NEARLY_FULL else OK,
        found=f"{found} of {most / 2**20:.0f} MiB ({part:.0%})",
        why="a full server refuses new jobs and results",
        advice="raise maxmemory, or keep fewer ended jobs (removeOnComplete, removeOnFail)",
    )


def connections(clients: int | None, most: int | None) -> Finding:
    """How many connections are left."""
    if clients is None or not most:
        return Finding(check="connections", verdict=UNKNOWN, found=_known(None))
    part = clients / most
    return Finding(
        check="connections",
        verdict=FAILURE if part > _FULL else WARNING if part > _NEARLY_FULL else OK,
        found=f"{clients} of {most}",
        why="a worker has two connections, and a third while jobs run",
        advice="raise maxclients, or close connections that nobody uses",
    )


def persistence(append_only: bool | None) -> Finding:  # noqa: FBT001 - a fact
    """Whether a restart of the server keeps the jobs."""
    if append_only is None:
        return Finding(check="persistence", verdict=UNKNOWN, found=_known(None))
    return Finding(
        check="persistence",
        verdict=OK if append_only else WARNING,
        found="append-only file" if append_only else "no append-only file",
        why="jobs that were added or ended last are lost when the server dies",
        advice="appendonly yes, with appendfsync everysec or always",
    )


def idle_timeout(seconds: int | None, idle_max: float) -> Finding:
    """Whether the server closes connections that send nothing for long."""
    if seconds is None:
        return Finding(check="idle time-out", verdict=UNKNOWN, found=_known(None))
    shortens = 0 < seconds < idle_max
    return Finding(
        check="idle time-out",
        verdict=WARNING if shortens else OK,
        found=f"{seconds} s" if seconds else "never",
        why="an idle worker connects again each time, at two commands and a look",
        advice=f"set the server's timeout to 0, or above CONVOLAB_IDLE_MAX ({idle_max:g} s)",
    )


def round_trip(seconds: Sequence[float], command_timeout: float) -> Finding:
    """How long the way there and back takes."""
    ordered = sorted(seconds)
    median, worst = ordered[len(ordered) // 2], ordered[-1]
    too_slow = worst > command_timeout / 2
    return Finding(
        check="round trip",
        verdict=FAILURE if too_slow else WARNING if median > _SLOW_SECONDS else OK,
        found=f"{median * 1000:.1f} ms at the median, {worst * 1000:.1f} ms at worst",
        why="every job costs at least one; above CONVOLAB_COMMAND_TIMEOUT a connection is given up",
        advice="run the worker in the server's region, or raise CONVOLAB_COMMAND_TIMEOUT",
    )


def clock(difference: float | None) -> Finding:
    """Whether the server's clock and this machine's agree; ``difference`` is in seconds."""
    if difference is None:
        return Finding(check="clock", verdict=UNKNOWN, found=_known(None))
    return Finding(
        check="clock",
        verdict=WARNING if abs(difference) > _CLOCK_SECONDS else OK,
        found=f"{difference:+.2f} s from the server's",
        why="delayed jobs start by the workers' clocks, and were given their times by others",
        advice="let every machine keep its time by NTP",
    )


def blocking(asked: float, took: float | None) -> Finding:
    """Whether a blocking read lasts; ``took`` is None if it was cut or refused."""
    lasted = took is not None and took >= asked * 0.9
    return Finding(
        check="blocking read",
        verdict=OK if lasted else FAILURE,
        found="cut or refused" if took is None else f"{took:.1f} s of {asked:g} s",
        why="a worker waits for jobs in long blocking reads; without them it would have to poll",
        advice="allow BZPOPMIN, and look for a proxy in between that cuts connections",
    )


def scripts(error: str | None) -> Finding:
    """Whether Lua runs, with the libraries that BullMQ's scripts use."""
    return Finding(
        check="scripts",
        verdict=OK if error is None else FAILURE,
        found="Lua with cmsgpack and cjson" if error is None else error,
        why="every change of a job's state is one of BullMQ's Lua scripts",
        advice="allow EVAL and EVALSHA to this user, on a server with Lua",
    )


def permissions(user: str | None, missing: Sequence[str] | None) -> Finding:
    """What the user lacks of what is used, as rules of Redis's ACL: ``+lpos``, ``~bull:*``."""
    if missing is None:
        return Finding(
            check="permissions", verdict=UNKNOWN, found="only a server from 7.0 on can be asked"
        )
    return Finding(
        check="permissions",
        verdict=FAILURE if missing else OK,
        found=f"{user} lacks {' '.join(missing)}" if missing else f"{user} may all that is used",
        why="what is denied fails when it is needed, in the middle of the work",
        advice=f"ACL SETUSER {user} {' '.join(missing)}",
    )


def cluster(is_cluster: bool | None, prefix: str) -> Finding:  # noqa: FBT001 - a fact
    """Whether a queue's keys are on one node."""
    tagged = re.search(r"\{[^{}]+\}", prefix) is not None
    return Finding(
        check="cluster",
        verdict=UNKNOWN if is_cluster is None else FAILURE if is_cluster and not tagged else OK,
        found=_known(None) if is_cluster is None else "a cluster" if is_cluster else "no cluster",
        why="a script's keys, and those of one blocking read, must be in one slot",
        advice=f"use a hash tag in CONVOLAB_PREFIX, such as {{{prefix}}}, in all producers too",
    )


def lock(lock_duration: float, command_timeout: float) -> Finding:
    """Whether a lock outlives a command that hangs."""
    return Finding(
        check="lock",
        verdict=WARNING if command_timeout * 2 > lock_duration else OK,
        found=f"{lock_duration:g} s, with commands given up after {command_timeout:g} s",
        why="a renewal that hangs is to be tried again before the lock has run out",
        advice="CONVOLAB_LOCK_DURATION at least twice CONVOLAB_COMMAND_TIMEOUT",
    )


def billing(host: str, budget: int | None) -> Finding:
    """Whether the provider bills by the command."""
    provider = next((name for end, name in _BY_THE_COMMAND.items() if host.endswith(end)), None)
    if provider is None:
        return Finding(check="billing", verdict=OK, found="no provider known to bill by command")
    return Finding(
        check="billing",
        verdict=OK if budget is not None else WARNING,
        found=f"{provider}, which may bill by the command",
        why="a mistake in a handler or a setting is seen in the bill",
        advice="set CONVOLAB_COMMAND_BUDGET: the worker warns before it is passed",
    )


def queue_version(queue: str, version: str | None) -> Finding:
    """Which BullMQ last wrote the queue's metadata, such as ``bullmq:6.7.0``."""
    check = f"queue {queue}"
    if version is None:
        return Finding(check=check, verdict=OK, found="not used yet, or by Python alone")
    library, _, number = version.partition(":")
    if library != "bullmq":
        return Finding(
            check=check,
            verdict=WARNING,
            found=version,
            why="only BullMQ's own scripts are spoken here, not those of its Pro edition",
            advice="don't use groups, batches or observables on this queue",
        )
    if number.partition(".")[0] == "5":
        return Finding(
            check=check,
            verdict=WARNING,
            found=f"BullMQ {number}",
            why="its resume() drops jobs that newer versions have added while the queue was paused",
            advice="pause and resume it with BullMQ 6, or not while others add jobs",
        )
    return Finding(check=check, verdict=OK, found=f"BullMQ {number}")


def paused_list(queue: str, jobs: int) -> Finding | None:
    """Jobs in the list that BullMQ kept for paused queues before 6; None without any."""
    if not jobs:
        return None
    return Finding(
        check=f"queue {queue}, paused",
        verdict=FAILURE,
        found=f"{jobs} jobs in the list of BullMQ 5's paused queues",
        why="neither BullMQ 6 nor this worker takes jobs from that list",
        advice="resume the queue with BullMQ 5, or move the jobs: convolab-worker migrate",
    )


def unhandled(queue: str, waiting: Iterable[str], known: Iterable[str]) -> Finding:
    """Names of waiting jobs that the application has no handler for."""
    missing = sorted({*waiting} - {*known})
    return Finding(
        check=f"queue {queue}, handlers",
        verdict=FAILURE if missing else OK,
        found=f"nobody handles: {', '.join(missing)}" if missing else "all waiting names",
        why="such a job fails for good when it is taken",
        advice="register a handler, or run another worker for that queue",
    )


def strangers(status: int | None) -> Finding:
    """Whether the wake server is closed to who has no token; ``status`` is its answer to one."""
    is_open = status is not None and status < _FIRST_ERROR
    return Finding(
        check="wake, strangers",
        verdict=WARNING if is_open else OK,
        found="whoever reaches it may wake it" if is_open else "refused",
        why="wakes cost commands and instance time, and the status page shows what runs",
        advice="set CONVOLAB_WAKE_TOKEN on both sides, unless only a network of yours reaches it",
    )


def wake(error: str | None, status: int | None) -> Finding:
    """Whether the worker service can be waked; ``status`` is what it answered to the token."""
    if error is not None:
        verdict, found = FAILURE, error
    elif status in _REFUSED:
        verdict, found = FAILURE, f"the token is refused ({status})"
    else:
        verdict = OK if status is not None and status < _FIRST_ERROR else FAILURE
        found = f"reached, answers {status}"
    return Finding(
        check="wake",
        verdict=verdict,
        found=found,
        why="without a wake a sleeping worker hears of jobs from its scheduler alone",
        advice="compare CONVOLAB_WAKE_URL, and the token or the audience, on both sides",
    )
