"""What BullMQ's keys and scripts answer, read without ever raising: jobs, markers, restrictions."""

from __future__ import annotations

import functools
import json
import math
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from convolab_worker.bullmq.protocol.job_options import (
    Options,
    is_true,
    long_options,
    most_attempts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

STEP_FIELD = "step:"
_STEP = STEP_FIELD.encode()
_STEP_LENGTH = len(_STEP)
# The fields of a job's hash that are read; ``read_active_job`` unpacks them in this order.
_FIELDS = (
    b"name", b"data", b"opts", b"timestamp", b"processedOn", b"ats", b"atm", b"attemptsMade",
    b"delay", b"stacktrace", b"stc", b"defa", b"parentKey", b"rjk", b"movedFrom",
)  # fmt: skip
_LONG = 17  # so many digits are neither a time nor a count


class ActiveJob(Struct, eq=False):
    """One job in ``active``, locked under ``token`` for this worker.

    Times are milliseconds since the epoch, as BullMQ writes them. ``problem`` says what of the
    hash could not be understood; such a job can only be failed. ``starts`` counts how often a
    worker has fetched it, this time included; ``stalls`` how often a worker was found to have died.
    ``steps`` are the results of steps that this run and earlier ones have kept, as JSON text by the
    steps' names; ``moved_from`` is QUEUE:ID of the queue where the job was started first, if it was
    moved to another one since.
    ``has_asked`` says that this worker has added children of it, in this run or the one before, and
    ``largest_child`` is how many bytes of data one has at most. ``children_ended`` is how many
    of its children had ended when its handler was told last; None if it was not told yet.
    ``policy`` is ``opts`` with what its handler and its worker say where the job says nothing, None
    where they say nothing either: the executor writes it.
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
    stalls: int = 0
    problem: str | None = None
    steps: dict[str, bytes] = field(default_factory=dict)
    moved_from: str | None = None
    has_asked: bool = False
    largest_child: int = 0
    children_ended: int | None = None
    policy: Mapping[str, Any] | None = None

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.attempts_made + 1

    @property
    def max_attempts(self) -> int:
        return most_attempts(self.policy or self.opts)


class _Layout(Struct, frozen=True):
    """Where a job's hash has what is read of it: jobs of one producer all have the same fields.

    ``read`` gets the values, with a None after them, and gives those of ``_FIELDS``. ``steps`` are
    names of steps, and where their results stand.
    """

    read: Callable[[Sequence[bytes | None]], tuple[bytes | None, ...]]
    steps: Sequence[tuple[str, int]]


@functools.lru_cache(maxsize=128)
def _layout_of(names: tuple[bytes, ...]) -> _Layout:
    places = {name: place for place, name in enumerate(names)}
    steps = [
        (text(name[_STEP_LENGTH:]), place)
        for name, place in places.items()
        if name.startswith(_STEP)
    ]
    return _Layout(itemgetter(*[places.get(field, -1) for field in _FIELDS]), steps)


def read_active_job(queue: str, job_id: bytes, token: str, flat: list[bytes]) -> ActiveJob:
    """Reads a job's hash as HGETALL gives it. It never raises: see ``ActiveJob.problem``."""
    layout, values = _layout_of(tuple(flat[::2])), [*flat[1::2], None]
    (
        name, data, raw_opts, added, begun, starts, made, made_before,
        delay, stacktrace, stalls, deferred, parent, scheduler, moved_from,
    ) = layout.read(values)  # fmt: skip
    problem = None
    try:
        opts = _options(b"{}" if raw_opts is None else raw_opts)
    except (ValueError, RecursionError) as error:
        opts, problem = Options({}), f"the job's opts are not a JSON object: {error}"
    if name is None:
        problem = "the job's hash has no name: it was removed, or never written whole"
    # What few jobs have is not even read: each call here is made for every job.
    attempts_made = 0 if made is None else whole_number(made)
    if made_before is not None:
        attempts_made = max(attempts_made, whole_number(made_before))
    return ActiveJob(  # by position, which is quicker: this runs for every job
        queue,
        job_id.decode("utf-8", "surrogateescape"),
        token,
        (name or b"").decode("utf-8", "surrogateescape"),
        data or b"{}",  # as Node reads what another program has left out
        opts,
        whole_number(added),
        whole_number(begun),
        attempts_made,
        1 if starts == b"1" else whole_number(starts),
        0 if delay == b"0" else whole_number(delay),
        text(deferred) if deferred else None,
        text(parent) if parent else None,
        text(scheduler) if scheduler else None,
        b"[]" if stacktrace is None else stacktrace,
        0 if stalls is None else whole_number(stalls),
        problem,
        {step: values[place] or b"" for step, place in layout.steps} if layout.steps else {},
        None if moved_from is None else text(moved_from),
    )


def step_field(name: str) -> str:
    """Returns the field of a job's hash that keeps the result of the step called ``name``."""
    return STEP_FIELD + name


@functools.lru_cache(maxsize=512)
def _options(raw: bytes) -> Options:
    """Reads a job's options once for all jobs that have the same, as those of one producer do."""
    decoded = json.loads(raw or b"{}")
    if decoded is None:
        msg = "got null"
        raise ValueError(msg)
    return Options(long_options(decoded))


def is_lifo(opts: bytes | None) -> bool:
    """Whether a job with these options, as its hash has them, goes to the head of its queue."""
    try:
        return is_true(_options(opts or b"{}").get("lifo"))
    except (ValueError, RecursionError):
        return False


def pairs(flat: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Returns a flat reply, such as HGETALL's, as names with their values, or jobs with scores."""
    return list(zip(flat[::2], flat[1::2], strict=False))


def text(raw: bytes) -> str:
    """Returns bytes as text; ``Connection.call`` sends it as the same bytes, UTF-8 or not."""
    return raw.decode("utf-8", "surrogateescape")


def readable(raw: bytes | None) -> str:
    """Returns text for people: bytes that are not UTF-8 are replaced, and None is empty text."""
    return (raw or b"").decode("utf-8", "replace")


def json_or_text(text: str | None) -> Any:
    """Returns a field's JSON value, or its text: other programs may write what is not JSON."""
    with suppress(ValueError, RecursionError):
        return None if text is None else json.loads(text)
    return text


def whole_number(raw: bytes | None) -> int:
    """Reads a field of a job's hash; 0 for what is not a number."""
    if raw is None:
        return 0
    try:
        return int(raw) if raw.isdigit() and len(raw) < _LONG else int(float(raw or 0))
    except (ValueError, OverflowError):
        return 0


def read_number(raw: object) -> float | None:
    """Reads a number as Redis gives it, or None for anything else; NaN is not a number."""
    if not isinstance(raw, (bytes, int, float)):
        return None
    try:
        number = float(raw)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def read_seconds(raw: object) -> float | None:
    """Reads milliseconds, as BullMQ writes times, in seconds; None for what is not a number."""
    number = read_number(raw)
    return None if number is None else number / 1000


# What the scripts answer instead of a job (bullmq.error_code).
JOB_MISSING, LOCK_MISSING, NOT_ACTIVE, PENDING_CHILDREN, LOCK_OF_ANOTHER = -1, -2, -3, -4, -6
FAILED_CHILDREN = -9
# The codes that mean: the job is not this worker's any more.
LOST = {
    JOB_MISSING: "the job was removed",
    LOCK_MISSING: "the lock had run out",
    NOT_ACTIVE: "the job is no longer active",
    LOCK_OF_ANOTHER: "another worker holds the lock",
}
# A delayed job's score is its due time in milliseconds times this, and a counter.
_SCORES_IN_A_MS = 0x1000
_LATEST_DUE = 253_402_300_800  # the year 10000, which Python's dates end before


class FetchResult(Struct, frozen=True):
    """The answer to a fetch: a job, or when there may be one.

    ``due_at`` is when the next delayed job is due (seconds since the epoch), ``limited_for`` how
    long a rate limit lasts (seconds). ``asked`` is False where no job was asked for.
    """

    job: ActiveJob | None = None
    due_at: float | None = None
    limited_for: float = 0.0
    asked: bool = True


NOT_ASKED = FetchResult(asked=False)
_NOTHING = FetchResult()


class Marker(Struct, frozen=True):
    """What ended a blocking read: a job may be in ``queue``, at once or at ``due_at``.

    ``due_at`` is epoch seconds. Where ``cancelled`` is set it was not a marker: somebody wants the
    job of that id, which this worker has, to be cancelled.
    """

    queue: str
    due_at: float | None
    cancelled: str | None = None


class Restrictions(Struct, frozen=True):
    """Why a queue gives no job: it is ``paused``, or ``concurrency`` jobs of it are active."""

    paused: bool
    concurrency: int | None


def read_fetch(queue: str, token: str, raw: Any) -> FetchResult:
    """Reads what ``moveToActive`` has answered, or a script that fetches the next job."""
    if not isinstance(raw, list) or not raw:
        return _NOTHING
    if isinstance(raw[0], list):
        return FetchResult(read_active_job(queue, raw[1], token, raw[0]))
    _, _, limited_ms, due_ms = [*raw, 0, 0, 0][:4]
    return FetchResult(
        due_at=read_due(due_ms), limited_for=max(read_seconds(limited_ms) or 0.0, 0.0)
    )


def read_due(milliseconds: object) -> float | None:
    """Reads when a delayed job is due, in epoch seconds; None for a time that never comes.

    BullMQ's scripts promote no job whose score is below 0.
    """
    seconds = read_seconds(milliseconds) or 0.0
    return seconds if 0 < seconds < _LATEST_DUE else None


def read_score(score: object) -> float | None:
    """Reads a delayed job's score, as ``read_due`` reads its due time."""
    number = read_number(score)
    return None if number is None else read_due(number / _SCORES_IN_A_MS)


def read_restrictions(raw: list[bytes | None]) -> Restrictions:
    """Reads a queue's fields ``paused`` and ``concurrency``.

    BullMQ's scripts compare the number of active jobs with what Lua makes of the concurrency: 2.5
    lets 3 jobs be active, Infinity any number, 0 and less none. Where Lua makes nothing of it, the
    scripts stop with an error.
    """
    paused, concurrency = raw
    number = read_number(concurrency)
    most = None
    if number is not None and number != math.inf:
        most = math.ceil(max(number, 0))
    return Restrictions(paused is not None, most)
