"""A job that this worker has taken: what its hash says, and the token of its lock."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# BullMQ's short names of job options, as stored (bullmq.job.optsDecodeMap).
_LONG_NAMES = {
    "fpof": "failParentOnFailure",
    "cpof": "continueParentOnFailure",
    "idof": "ignoreDependencyOnFailure",
    "rdof": "removeDependencyOnFailure",
    "kl": "keepLogs",
    "de": "deduplication",
}

_LONG = 17  # digits of a number that may not be a time, nor a count


class Options(dict[str, Any]):
    """A job's options by their long names, kept and shared by all jobs that have the same.

    ``packed`` is for what whoever sends them makes of them, once.
    """

    __slots__ = ("packed",)

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Keep the options; nothing is packed yet."""
        super().__init__(options)
        self.packed: dict[str, bytes] = {}


@dataclass(slots=True, eq=False)
class ActiveJob:
    """One job in ``active``, locked under ``token`` for this worker.

    Times are milliseconds since the epoch, as BullMQ writes them. ``problem`` says what of the
    hash could not be understood; such a job can only be failed.
    """

    queue: str
    id: str
    token: str
    name: str
    data: bytes
    opts: Mapping[str, Any]
    timestamp: int = 0
    processed_on: int = 0
    attempts_made: int = 0
    starts: int = 1
    delay: int = 0
    deferred_failure: str | None = None
    parent_key: str | None = None
    scheduler_id: str | None = None
    stacktrace: bytes = b"[]"
    problem: str | None = None

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.attempts_made + 1

    @property
    def max_attempts(self) -> int:
        """How many attempts the job's options give it, at least 1."""
        attempts = self.opts.get("attempts", 1)
        return max(attempts, 1) if isinstance(attempts, int) else 1


def read_active_job(queue: str, job_id: bytes, token: str, flat: list[bytes]) -> ActiveJob:
    """Read a job's hash, given as HGETALL gives it; never raises, see ``ActiveJob.problem``."""
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    get = fields.get
    problem = None
    try:
        opts = _options(get(b"opts", b"{}"))
    except (ValueError, RecursionError) as error:
        opts, problem = Options({}), f"the job's opts are not a JSON object: {error}"
    name = get(b"name")
    data = get(b"data")
    if name is None:
        problem = "the job's hash has no name: it was removed, or never written whole"
    elif data is None:
        problem = "the job's hash has no data: it was never written whole"
    return ActiveJob(  # by position, which is quicker: this runs for every job
        queue,
        text(job_id),
        token,
        text(name or b""),
        b"null" if data is None else data,
        opts,
        _number(get(b"timestamp")),
        _number(get(b"processedOn")),
        _number(get(b"atm")) or _number(get(b"attemptsMade")),
        _number(get(b"ats")),
        _number(get(b"delay")),
        _optional(get(b"defa")),
        _optional(get(b"parentKey")),
        _optional(get(b"rjk")),
        get(b"stacktrace", b"[]"),
        problem,
    )


@functools.lru_cache(maxsize=512)
def _options(raw: bytes) -> Options:
    """The job's options by their long names; jobs of one producer share them, so they are kept."""
    decoded = json.loads(raw)
    if not isinstance(decoded, dict):
        msg = f"got {type(decoded).__name__}"
        raise ValueError(msg)  # noqa: TRY004 - the caller treats it like any other bad JSON
    options: dict[str, Any] = decoded
    return Options({_LONG_NAMES.get(key, key): value for key, value in options.items()})


def text(raw: bytes) -> str:
    """Any bytes as text that can be turned back into the same bytes (see ``Connection.call``)."""
    return raw.decode("utf-8", "surrogateescape")


def _optional(raw: bytes | None) -> str | None:
    return None if not raw else text(raw)


def _number(raw: bytes | None) -> int:
    if raw is None:
        return 0
    try:
        return int(raw) if raw.isdigit() and len(raw) < _LONG else int(float(raw or 0))
    except (ValueError, OverflowError):
        return 0
