"""A worker's script calls for the jobs of a queue: from state to state, and in between. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack
from msgspec import Struct

from convolab_worker.bullmq.protocol import script_costs
from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.job_options import end_options, is_true, number
from convolab_worker.bullmq.protocol.packing import pack_some
from convolab_worker.bullmq.protocol.records import step_field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.records import ActiveJob

# The scripts that end a job.
FINISHING = frozenset({"moveToFinished", "finishWithSteps"})
_FETCH_KEYS = (
    "wait", "active", "prioritized", "events", "stalled", "limiter", "delayed", "paused", "meta",
    "pc",
)  # fmt: skip
_DELAY_KEYS = ("marker", "active", "prioritized", "delayed")
_DELAY_MORE_KEYS = ("events", "meta", "stalled", "wait", "limiter", "pc")
_MOST_ROWS = 2**31  # which nobody keeps: no limit
_MOST_ENDS = 1000
_RETURN_VALUE = pack_some("returnvalue")
_NO_FIELDS = ""
_KEEPS_ALL = {"count": -1}


class _End(Struct, frozen=True):
    """The ``options`` of a job's end, and those that our part of the script reads (``ours``).

    ``fetching`` is the packed call of one that fetches the next job, and ``alone`` of one that ends
    its job alone: formats for the job's key, its id, the time and the result, each with its length.
    """

    options: bytes
    ours: tuple[str | int, ...]
    fetching: bytes
    alone: bytes


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
        self._keys = keys
        self._worker_opts: dict[str, Any] = {"lockDuration": lock_ms}
        if worker_name is not None:
            self._worker_opts["name"] = worker_name
        if limiter is not None:
            self._worker_opts["limiter"] = limiter._asdict()
        self._finish_opts = {**self._worker_opts, "maxMetricsSize": metrics_points or ""}
        self._fetch_keys = keys.named(*_FETCH_KEYS, "marker")
        self._finish_keys = {
            target: (keys.named(*_FETCH_KEYS, target), f"{keys.base}metrics:{target}")
            for target in ("completed", "failed")
        }
        base = keys.base.encode("utf-8", "surrogateescape")
        self._base_length = len(base)
        first, metrics = self._finish_keys["completed"]
        self._completed = b"".join(
            (
                _literal(pack_some(*first)),
                b"$%d\r\n", _literal(base), b"%b\r\n",
                _literal(pack_some(metrics, self._fetch_keys[-1])),
                b"$%d\r\n%b\r\n" * 2, _RETURN_VALUE, b"$%d\r\n%b\r\n",
            )
        )  # fmt: skip
        self._ends: dict[str, tuple[Mapping[str, Any], str, _End]] = {}
        self._delay_keys = keys.named(*_DELAY_KEYS)
        self._delay_more_keys = keys.named(*_DELAY_MORE_KEYS)

    def fetch(self, token: str, now_ms: int) -> Call:
        """Move the next job to active, locked under ``token``."""
        opts = msgpack.packb({"token": token, **self._worker_opts})
        return Call("moveToActive", self._fetch_keys, (self._keys.base, now_ms, opts))

    def finish(
        self,
        job: ActiveJob,
        target: str,
        value: str,
        now_ms: int,
        *,
        fetch_next: bool,
        fields: Mapping[str, str] | None = None,
    ) -> Call:
        """Move a job to ``completed`` or ``failed`` and, if asked, fetch the next one."""
        base, fetch = self._keys.base, "1" if fetch_next else ""
        fixed, metrics = self._finish_keys[target]
        keys = [*fixed, base + job.id, metrics, self._fetch_keys[-1]]
        end = self._end(job.token, job.policy or job.opts, target)
        kind = "returnvalue" if target == "completed" else "failedReason"
        args: list[Any] = [job.id, now_ms, kind, value, target, fetch, base, end.options]
        if fields:
            args.append(_flat(fields))
        if target == "failed":
            return Call("moveToFinished", keys, args)
        # Our part of the script does not know what is to be done for these.
        is_deduplicated = "deduplication" in job.opts
        if not is_deduplicated:
            args += end.ours
        if job.steps:
            args.append(_packed([step_field(name) for name in job.steps]))
            return Call("finishWithSteps", keys, args)
        if is_deduplicated:
            return Call("moveToFinished", keys, args)
        job_id, ended_at = job.id.encode("utf-8", "surrogateescape"), b"%d" % now_ms
        result, length = value.encode("utf-8", "surrogateescape"), len(job_id)
        packed = (end.fetching if fetch_next else end.alone) % (
            self._base_length + length, job_id, length, job_id, len(ended_at), ended_at,
            len(result), result,
        )  # fmt: skip
        return Call("moveToFinished", keys, args, None, packed)

    def _end(self, token: str, policy: Mapping[str, Any], target: str) -> _End:
        """What the jobs of one slot have in common, which have one token and mostly one policy."""
        known = self._ends.get(token)
        if known is not None and known[0] is policy and known[1] == target:
            return known[2]
        at_end = end_options(policy, target)
        options: bytes = msgpack.packb({"token": token, **self._finish_opts, **at_end})
        has_more = (
            at_end["keepJobs"] != _KEEPS_ALL
            or "limiter" in self._worker_opts
            or self._finish_opts["maxMetricsSize"] != ""
        )
        name = self._worker_opts.get("name", "")
        lock_ms = self._worker_opts["lockDuration"]
        ours = (_NO_FIELDS, token, lock_ms, name, "1" if has_more else "")
        last = b"$%d\r\n%b\r\n%b" % (len(options), options, pack_some(*ours))
        end = _End(
            options,
            ours,
            self._completed + _literal(pack_some("completed", "1", self._keys.base) + last),
            self._completed + _literal(pack_some("completed", "", self._keys.base) + last),
        )
        if len(self._ends) >= _MOST_ENDS:
            self._ends.clear()
        self._ends[token] = policy, target, end
        return end

    def delay(
        self,
        job: ActiveJob,
        delay_ms: int,
        now_ms: int,
        *,
        skip_attempt: bool,
        fetch_next: bool,
        fields: Mapping[str, str] | None = None,
    ) -> Call:
        """Move a job to ``delayed`` for ``delay_ms`` and, if asked, fetch the next one."""
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
            args.append(msgpack.packb({"token": job.token, **self._worker_opts}))
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
        push = "RPUSH" if is_true(job.opts.get("lifo")) else "LPUSH"
        args = (self._keys.base, now_ms, push, job.id, job.token, _flat(fields))
        return Call("retryJob", keys, args)

    def return_to_queue(self, job: ActiveJob) -> Call:
        """Put a job back at the head of its queue as if it had not been fetched."""
        keys = self._keys.named(
            "active", "wait", "stalled", "paused", "meta", "limiter", "prioritized", "marker",
            "events",
        )  # fmt: skip
        args = (job.id, job.token, self._keys.job(job.id))
        return Call("moveJobFromActiveToWait", keys, args)

    def await_children(self, job: ActiveJob, *, now_ms: int, going_on: Sequence[str] = ()) -> Call:
        """Move a job to ``waiting-children``; the answer is 1 if no child is pending.

        It is also 1 if one of ``going_on`` has failed: the keys of children whose failure lets the
        job go on at once.
        """
        job_key = self._keys.job(job.id)
        keys = [
            *self._keys.named("active", "waiting-children"),
            job_key,
            f"{job_key}:dependencies",
            f"{job_key}:unsuccessful",
            *self._keys.named("stalled", "events"),
        ]
        args = (job.token, "", now_ms, job.id, self._keys.base)
        if not going_on:
            return Call("moveToWaitingChildren", keys, args)
        return Call("awaitChildren", [*keys, f"{job_key}:failed"], (*args, _packed(going_on)))

    def recover_stalled(self, *, max_stalled: int, now_ms: int, interval_ms: int) -> Call:
        """One pass of the stalled check: recover marked jobs without a lock, mark all others."""
        keys = self._keys.named(
            "stalled", "wait", "active", "stalled-check", "meta", "paused", "marker", "events",
            "repeat",
        )  # fmt: skip
        args = (max_stalled, self._keys.base, now_ms, interval_ms)
        return Call("moveStalledJobsToWait", keys, args)

    def report(self, job: ActiveJob, progress: str | None, rows: Sequence[str]) -> Call:
        """Record a job's progress (JSON text) and announce it, add rows to its log, or both."""
        job_key = self._keys.job(job.id)
        keys = [job_key, *self._keys.named("events", "meta")]
        if not rows and progress is not None:
            return Call("updateProgress", keys, (job.id, progress), script_costs.PROGRESS)
        keep = job.opts.get("keepLogs")
        limit = 0 if isinstance(keep, bool) else number(keep) or 0
        kept = int(limit) if 1 <= limit < _MOST_ROWS else ""
        inner = script_costs.log(is_trimmed=bool(kept), has_progress=progress is not None)
        args = (job.id, progress or "", kept, *rows)
        return Call("addLogs", [*keys, f"{job_key}:logs"], args, inner)

    def record_step(self, job: ActiveJob, name: str, result: str) -> Call:
        """Keep a step's result (JSON text) with the job, and renew the job's lock."""
        keys = [self._keys.lock(job.id), self._keys.job(job.id)]
        args = (job.token, self._worker_opts["lockDuration"], step_field(name), result)
        return Call("recordStep", keys, args, script_costs.RECORD_STEP)

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
        inner = script_costs.RENEWAL * len(held)
        return Call("extendLocks", self._keys.named("stalled"), args, inner)


def _literal(packed: bytes) -> bytes:
    """These bytes as part of a format."""
    return packed.replace(b"%", b"%%")


def _flat(fields: Mapping[str, str]) -> bytes:
    return _packed([part for pair in fields.items() for part in pair])


def _packed(parts: Sequence[str]) -> bytes:
    packed: bytes = msgpack.packb(parts, unicode_errors="surrogateescape")
    return packed
