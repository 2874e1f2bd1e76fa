"""BullMQ's transitions of one queue as script calls: pure, from a job to keys and arguments.

Key orders and argument meanings are those at the head of each Lua file of bullmq. A conformance
test compares every call built here with the one that bullmq's own Python builds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from convolab_worker.bullmq.protocol.records import ActiveJob, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convolab_worker.bullmq.protocol.keys import QueueKeys

_packed: Callable[[Any], bytes] = msgpack.packb

_TAKE_KEYS = (
    "wait", "active", "prioritized", "events", "stalled", "limiter", "delayed", "paused", "meta",
    "pc",
)  # fmt: skip
_LARGEST = 2**53
# The head of a packed map with fewer than 16 entries, and how many of them are a job's own.
_SMALL_MAP, _JOB_ENTRIES = 0x80, 6
_DELAY_KEYS = ("marker", "active", "prioritized", "delayed")
_DELAY_MORE_KEYS = ("events", "meta", "stalled", "wait", "limiter", "pc")


class Call(NamedTuple):
    """One run of a script: which, its KEYS and its ARGV."""

    script: str
    keys: Sequence[str]
    args: Sequence[Any]


class Limiter(NamedTuple):
    """BullMQ's ``limiter``: at most ``max`` jobs of a queue start in ``duration`` milliseconds."""

    max: int
    duration: int


class Transitions:
    """The calls that move jobs of one queue from state to state.

    ``worker_name`` becomes the job's ``processedBy``; ``lock_ms`` is the lock's length;
    ``metrics_points`` is how many minutes of metrics are kept, None for none.
    """

    def __init__(
        self,
        keys: QueueKeys,
        *,
        worker_name: str | None,
        lock_ms: int,
        limiter: Limiter | None = None,
        metrics_points: int | None = None,
    ) -> None:
        """Build what doesn't depend on a job once."""
        self._keys = keys
        self._lock_ms = lock_ms
        self._limiter = limiter
        self._worker_name = worker_name
        worker = {key: value for key, value in self._worker_opts("").items() if key != "token"}
        worker["maxMetricsSize"] = metrics_points or ""
        self._worker_tail = _entries(worker)
        self._worker_head = bytes([_SMALL_MAP + 1 + len(worker) + _JOB_ENTRIES]) + _packed("token")
        self._take_keys = keys.named(*_TAKE_KEYS, "marker")
        self._finish_keys = {
            target: (keys.named(*_TAKE_KEYS, target), f"{keys.base}metrics:{target}")
            for target in ("completed", "failed")
        }
        self._delay_keys = keys.named(*_DELAY_KEYS)
        self._delay_more_keys = keys.named(*_DELAY_MORE_KEYS)

    def _worker_opts(self, token: str) -> dict[str, Any]:
        opts: dict[str, Any] = {"token": token, "lockDuration": self._lock_ms}
        if self._worker_name is not None:
            opts["name"] = self._worker_name
        if self._limiter is not None:
            opts["limiter"] = self._limiter._asdict()
        return opts

    def fetch(self, token: str, now_ms: int) -> Call:
        """Move the next job to active, locked under ``token``."""
        opts = msgpack.packb(self._worker_opts(token))
        return Call("moveToActive", self._take_keys, (self._keys.base, now_ms, opts))

    def finish(
        self,
        job: ActiveJob,
        *,
        target: str,
        value: str,
        now_ms: int,
        fetch_next: bool,
        fields: Mapping[str, str] | None = None,
    ) -> Call:
        """Move a job to ``completed`` or ``failed`` and, if asked, take the next one."""
        base = self._keys.base
        fixed, metrics = self._finish_keys[target]
        keys = [*fixed, base + job.id, metrics, self._take_keys[-1]]
        args: list[Any] = [
            job.id,
            now_ms,
            "returnvalue" if target == "completed" else "failedReason",
            value,
            target,
            "1" if fetch_next else "",
            base,
            b"".join(
                (
                    self._worker_head,
                    _packed(job.token),
                    self._worker_tail,
                    _job_part(job.opts, target),
                )
            ),
        ]
        if fields:
            args.append(_flat(fields))
        return Call("moveToFinished", keys, args)

    def delay(
        self,
        job: ActiveJob,
        *,
        delay_ms: int,
        now_ms: int,
        skip_attempt: bool,
        fetch_next: bool,
        fields: Mapping[str, str] | None = None,
    ) -> Call:
        """Move a job to ``delayed`` for ``delay_ms`` and, if asked, take the next one."""
        keys = [*self._delay_keys, self._keys.job(job.id), *self._delay_more_keys]
        args: list[Any] = [
            self._keys.base,
            str(now_ms),
            job.id,
            job.token,
            delay_ms,
            "1" if skip_attempt else "0",
            _flat(fields) if fields else "",
            "1" if fetch_next else "0",
        ]
        if fetch_next:
            args.append(msgpack.packb(self._worker_opts(job.token)))
        return Call("moveToDelayed", keys, args)

    def retry(self, job: ActiveJob, *, now_ms: int, fields: Mapping[str, str]) -> Call:
        """Put a job back into its queue for its next attempt, at once."""
        keys = [
            *self._keys.named("active", "wait", "paused"),
            self._keys.job(job.id),
            *self._keys.named(
                "meta", "events", "delayed", "prioritized", "pc", "marker", "stalled"
            ),
        ]
        push = "RPUSH" if job.opts.get("lifo") else "LPUSH"
        args = (self._keys.base, now_ms, push, job.id, job.token, _flat(fields))
        return Call("retryJob", keys, args)

    def return_to_queue(self, job: ActiveJob) -> Call:
        """Put a job back at the head of its queue as if it had not been taken."""
        keys = self._keys.named(
            "active", "wait", "stalled", "paused", "meta", "limiter", "prioritized", "marker",
            "events",
        )  # fmt: skip
        args = (job.id, job.token, self._keys.job(job.id))
        return Call("moveJobFromActiveToWait", keys, args)

    def await_children(self, job: ActiveJob, *, now_ms: int) -> Call:
        """Move a job to ``waiting-children``; the answer is 1 if no child is pending."""
        job_key = self._keys.job(job.id)
        keys = [
            *self._keys.named("active", "waiting-children"),
            job_key,
            f"{job_key}:dependencies",
            f"{job_key}:unsuccessful",
            *self._keys.named("stalled", "events"),
        ]
        return Call("moveToWaitingChildren", keys, (job.token, "", now_ms, job.id, self._keys.base))

    def recover_stalled(self, *, max_stalled: int, now_ms: int, interval_ms: int) -> Call:
        """One pass of the stalled check: recover marked jobs without a lock, mark all others."""
        keys = self._keys.named(
            "stalled", "wait", "active", "stalled-check", "meta", "paused", "marker", "events",
            "repeat",
        )  # fmt: skip
        return Call(
            "moveStalledJobsToWait", keys, (max_stalled, self._keys.base, now_ms, interval_ms)
        )

    def progress(self, job_id: str, value: str) -> Call:
        """Record a job's progress (JSON text) and announce it."""
        keys = [self._keys.job(job_id), *self._keys.named("events", "meta")]
        return Call("updateProgress", keys, (job_id, value))

    def extend_locks(self, held: Sequence[tuple[str, str]], duration_ms: int) -> Call:
        """Renew the locks of ``(job id, token)`` pairs; the answer lists the ids that are lost."""
        ids = [job_id for job_id, _ in held]
        tokens = [token for _, token in held]
        args = (
            self._keys.base,
            msgpack.packb(tokens, unicode_errors="surrogateescape"),
            msgpack.packb(ids, unicode_errors="surrogateescape"),
            duration_ms,
        )
        return Call("extendLocks", self._keys.named("stalled"), args)


def _job_part(opts: Mapping[str, Any], target: str) -> bytes:
    """What the end of a job tells of its options, as the rest of a packed map; made once."""
    known: dict[str, bytes] = opts.packed if isinstance(opts, Options) else {}
    part = known.get(target)
    if part is None:
        remove = opts.get("removeOnComplete" if target == "completed" else "removeOnFail")
        part = known[target] = _entries(
            {
                "keepJobs": _keep_jobs(remove),
                "attempts": _number(opts.get("attempts"), otherwise=0),
                "fpof": bool(opts.get("failParentOnFailure")),
                "cpof": bool(opts.get("continueParentOnFailure")),
                "idof": bool(opts.get("ignoreDependencyOnFailure")),
                "rdof": bool(opts.get("removeDependencyOnFailure")),
            }
        )
    return part


def _entries(options: Mapping[str, Any]) -> bytes:
    """The entries of a packed map, without its head."""
    return b"".join(_packed(key) + _packed(value) for key, value in options.items())


def _keep_jobs(remove: object) -> Mapping[str, Any]:
    """What BullMQ's ``removeOnComplete`` and ``removeOnFail`` mean (Scripts.getKeepJobs).

    What is no number in them is left out: the script would stop half-way on it.
    """
    if isinstance(remove, (dict, list)):
        given = remove if isinstance(remove, dict) else {}
        known = {key: _number(given.get(key), otherwise=None) for key in ("count", "age", "limit")}
        return {key: value for key, value in known.items() if value is not None}
    return {"count": _number(remove, otherwise=0 if remove else -1)}


def _number(value: object, *, otherwise: int | None) -> float | None:
    """A number of a job's options, if it is one that Lua keeps exactly, or ``otherwise``."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return otherwise
    return value if abs(value) <= _LARGEST else otherwise


def _flat(fields: Mapping[str, str]) -> bytes:
    packed: bytes = msgpack.packb([part for pair in fields.items() for part in pair])
    return packed
