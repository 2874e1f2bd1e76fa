"""Judges facts about a Redis server and the settings. Pure.

A fact is None if the server does not tell it; many providers' servers tell little. The verdict is
then ``unknown``, which is not a failure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convolab_worker.settings.environment import UNKNOWN_SETTING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OK, WARNING, FAILURE, UNKNOWN = "ok", "warning", "failure", "unknown"
_OLDEST = (6, 2)
_SLOW_SECONDS = 0.05
_CLOCK_SECONDS = 1.0
_FULL, _NEARLY_FULL = 0.95, 0.8
# Ends of the host names of providers that bill, or can bill, by the command.
_BY_THE_COMMAND = {".upstash.io": "Upstash"}
_FORKS = {"valkey": "Valkey", "dragonfly": "Dragonfly", "keydb": "KeyDB"}
_VERSION = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found: its verdict, why it matters, and what to do if it is not ok."""

    check: str
    verdict: str
    found: str
    why: str = ""
    advice: str = ""


def _unknown(check: str, why: str = "") -> Finding:
    return Finding(check=check, verdict=UNKNOWN, found="the server does not say", why=why)


def variables(remarks: Sequence[str]) -> Finding:
    """Judge the parts of the environment that were ignored: unknown variables, odd values."""
    is_unknown = any(UNKNOWN_SETTING in remark for remark in remarks)
    return Finding(
        check="variables",
        verdict=FAILURE if is_unknown else WARNING if remarks else OK,
        found="; ".join(remarks) or "all are known",
        why="a setting that is misspelt is not set",
        advice="correct or remove them; CONVOLAB_STRICT=on makes every command refuse them",
    )


def server(info: Mapping[str, str] | None) -> Finding:
    if not info or "redis_version" not in info:
        return _unknown("server")
    fork = next((_FORKS[name] for name in _FORKS if _is_fork(name, info)), "Redis")
    version = info.get(f"{fork.lower()}_version", info["redis_version"])
    compatible = _VERSION.search(info["redis_version"])
    found = f"{fork} {version}"
    if compatible and (int(compatible[1]), int(compatible[2])) < _OLDEST:
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
    found = (info or {}).get("role")
    if not found:
        return _unknown("role")
    is_replica = found in {"slave", "replica"}
    return Finding(
        check="role",
        verdict=FAILURE if is_replica else OK,
        found="a replica" if is_replica else found,
        why="a worker has to write",
        advice="point REDIS_URL at the primary",
    )


def eviction(policy: str | None, most_memory: int | None) -> Finding:
    why = "under any other policy than noeviction a full server deletes jobs"
    if policy is None:
        return _unknown("eviction", why)
    return Finding(
        check="eviction",
        verdict=OK if policy == "noeviction" else WARNING if most_memory == 0 else FAILURE,
        found=policy,
        why=why,
        advice="CONFIG SET maxmemory-policy noeviction, or the provider's setting for it",
    )


def _verdict_on_share(share: float) -> str:
    return FAILURE if share > _FULL else WARNING if share > _NEARLY_FULL else OK


def memory(used: int | None, most: int | None) -> Finding:
    if used is None or most is None:
        return _unknown("memory")
    found = f"{used / 2**20:.0f} MiB used"
    if not most:
        return Finding(check="memory", verdict=OK, found=f"{found}, no limit set")
    return Finding(
        check="memory",
        verdict=_verdict_on_share(used / most),
        found=f"{found} of {most / 2**20:.0f} MiB ({used / most:.0%})",
        why="a full server refuses new jobs and results",
        advice="raise maxmemory, or keep fewer ended jobs (removeOnComplete, removeOnFail)",
    )


def connections(clients: int | None, most: int | None) -> Finding:
    if clients is None or not most:
        return _unknown("connections")
    return Finding(
        check="connections",
        verdict=_verdict_on_share(clients / most),
        found=f"{clients} of {most}",
        why="a worker has two to four connections",
        advice="raise maxclients, or close connections that nobody uses",
    )


def persistence(append_only: bool | None) -> Finding:  # noqa: FBT001 - a fact
    """Judge whether the jobs survive a restart of the server."""
    if append_only is None:
        return _unknown("persistence")
    return Finding(
        check="persistence",
        verdict=OK if append_only else WARNING,
        found="append-only file" if append_only else "no append-only file",
        why="a server that dies loses the jobs that were added or ended last",
        advice='set "appendonly yes", with "appendfsync everysec" or "always", in the server\'s '
        "configuration (redis.conf), or the provider's setting for it",
    )


def idle_timeout(seconds: int | None, idle_max: float) -> Finding:
    """Judge whether the server closes connections that are silent for long."""
    if seconds is None:
        return _unknown("idle time-out")
    return Finding(
        check="idle time-out",
        verdict=WARNING if 0 < seconds < idle_max else OK,
        found=f"{seconds} s" if seconds else "never",
        why="an idle worker connects again each time, which costs two commands and a probe",
        advice=f"set the server's timeout to 0, or above CONVOLAB_IDLE_MAX ({idle_max:g} s)",
    )


def round_trip(seconds: Sequence[float], command_timeout: float) -> Finding:
    ordered = sorted(seconds)
    median, worst = ordered[len(ordered) // 2], ordered[-1]
    too_slow = worst > command_timeout / 2
    return Finding(
        check="round trip",
        verdict=FAILURE if too_slow else WARNING if median > _SLOW_SECONDS else OK,
        found=f"{median * 1000:.1f} ms at the median, {worst * 1000:.1f} ms at worst",
        why="every job costs at least one; a connection that does not answer within "
        "CONVOLAB_COMMAND_TIMEOUT is closed",
        advice="run the worker in the server's region, or raise CONVOLAB_COMMAND_TIMEOUT",
    )


def clock(difference: float | None) -> Finding:
    """Judge whether the server's clock and this machine's agree; ``difference`` is in seconds."""
    if difference is None:
        return _unknown("clock")
    return Finding(
        check="clock",
        verdict=WARNING if abs(difference) > _CLOCK_SECONDS else OK,
        found=f"{difference:+.2f} s from the server's",
        why="producers set the times of delayed jobs by their clocks, workers read them by theirs",
        advice="let every machine keep its time by NTP",
    )


def blocking(asked: float, lasted: float | None) -> Finding:
    """Judge whether a blocking read lasts; ``lasted`` is None if it was cut or refused."""
    return Finding(
        check="blocking read",
        verdict=OK if lasted is not None and lasted >= asked * 0.9 else FAILURE,
        found="cut or refused"
        if lasted is None
        else f"it was to last {asked:g} s, and lasted {lasted:.1f} s",
        why="a worker waits for jobs in long blocking reads; without them it would have to poll",
        advice="allow BZPOPMIN, and look for a proxy in between that cuts connections",
    )


def scripts(error: str | None) -> Finding:
    return Finding(
        check="scripts",
        verdict=OK if error is None else FAILURE,
        found="Lua with cmsgpack and cjson" if error is None else error,
        why="every change of a job's state is one of BullMQ's Lua scripts",
        advice="allow EVAL and EVALSHA to this user, on a server with Lua",
    )


def permissions(user: str | None, missing: Sequence[str] | None) -> Finding:
    """Judge what the user may not do; ``missing`` has ACL rules such as ``+lpos``, ``~bull:*``."""
    if missing is None:
        return Finding(
            check="permissions", verdict=UNKNOWN, found="only a server from 7.0 on can say"
        )
    rules = " ".join(missing)
    return Finding(
        check="permissions",
        verdict=FAILURE if missing else OK,
        found=f"{user} lacks {rules}" if missing else f"{user} has every permission that is used",
        why="a command that is denied fails when it is needed, in the middle of the work",
        advice=f"ACL SETUSER {user} {rules}",
    )


def cluster(is_cluster: bool | None, prefix: str) -> Finding:  # noqa: FBT001 - a fact
    """Judge whether a queue's keys are on one node."""
    if is_cluster is None:
        return _unknown("cluster")
    has_hash_tag = re.search(r"\{[^{}]+\}", prefix) is not None
    return Finding(
        check="cluster",
        verdict=FAILURE if is_cluster and not has_hash_tag else OK,
        found="a cluster" if is_cluster else "no cluster",
        why="a script's keys, and those of one blocking read, must be in one slot",
        advice=f"use a hash tag in CONVOLAB_PREFIX, such as {{{prefix}}}, in all producers too",
    )


def lock(lock_duration: float, command_timeout: float) -> Finding:
    """Judge whether a lock outlives a command that hangs."""
    return Finding(
        check="lock",
        verdict=WARNING if command_timeout * 2 > lock_duration else OK,
        found=f"{lock_duration:g} s, and a command times out after {command_timeout:g} s",
        why="a renewal that hangs must be tried again before the lock expires",
        advice="CONVOLAB_LOCK_DURATION at least twice CONVOLAB_COMMAND_TIMEOUT",
    )


def billing(host: str, budget: int | None) -> Finding:
    provider = next((name for end, name in _BY_THE_COMMAND.items() if host.endswith(end)), None)
    if provider is None:
        return Finding(check="billing", verdict=OK, found="no provider known to bill by command")
    return Finding(
        check="billing",
        verdict=OK if budget is not None else WARNING,
        found=f"{provider}, which can bill by the command",
        why="a mistake in a handler or a setting costs money",
        advice="set CONVOLAB_COMMAND_BUDGET: the worker warns before it is exceeded",
    )
