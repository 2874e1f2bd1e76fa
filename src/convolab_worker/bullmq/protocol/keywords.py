"""Keywords of producers and handlers, checked before anything is sent, as BullMQ's job options."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, TypeGuard

from msgspec import Struct

from convolab_worker.bullmq.protocol.keys import OWN_KEYS
from convolab_worker.errors import ConfigurationError
from convolab_worker.payloads.encode import byte_size
from convolab_worker.settings.kinds import suggestion
from convolab_worker.settings.units import KEEP_EXPECTED, is_number, is_whole, parse_keep

# What a child's failure does to its parent, and BullMQ's option for it.
FAILURE_OPTIONS = {
    "fail": "failParentOnFailure",
    "ignore": "ignoreDependencyOnFailure",
    "continue": "continueParentOnFailure",
    "remove": "removeDependencyOnFailure",
}
LIFE_MARK = "~"  # separates a child's key from its parent's life, in the child's job id
# The strategies that every worker has; a job gives a delay with their names.
BUILT_IN = ("fixed", "exponential")
_MOST_SECONDS = 1e10  # some 300 years
_LARGEST = 2**53


class Exponential(Struct, frozen=True):
    """Waits ``delay`` seconds before the second attempt, and twice as long before each further one.

    No wait is longer than ``longest`` seconds; Node's workers don't know that bound. ``jitter``
    from 0 to 1 is the part of a wait that chance decides: with 0.5 a wait of 8 seconds takes 4 to
    8, so that jobs that failed together are not tried again together. Raises ConfigurationError.
    """

    delay: float
    longest: float | None = None
    jitter: float = 0.5

    def __post_init__(self) -> None:
        _check_backoff(self)
        if self.longest is not None and not (
            is_seconds(self.longest) and self.longest >= self.delay
        ):
            msg = f"{self!r}: longest: expected seconds, no fewer than the delay"
            raise ConfigurationError(msg)


class Fixed(Struct, frozen=True):
    """Waits ``delay`` seconds before each further attempt.

    ``jitter`` from 0 to 1 is the part of the wait that chance decides: with 0.2, 5 seconds take 4
    to 5. Raises ConfigurationError.
    """

    delay: float
    jitter: float = 0.2

    def __post_init__(self) -> None:
        _check_backoff(self)


class Deduplication(Struct, frozen=True):
    """Keeps a job from being added while another one of the same ``id`` is there.

    Without more, until that job has ended. ``ttl`` is for how many seconds after its adding,
    whether it has ended or not; ``extend`` starts them anew with each job that is kept away.
    ``replace`` puts the new job in the place of one that is still delayed. ``keep_last_if_active``
    keeps the newest data that comes while the job runs, and adds a job of it when that has ended;
    BullMQ has no ``ttl`` then. Raises ConfigurationError.
    """

    id: str
    ttl: float | None = None
    extend: bool = False
    replace: bool = False
    keep_last_if_active: bool = False

    def __post_init__(self) -> None:
        is_time = self.ttl is None or (is_seconds(self.ttl) and self.ttl > 0)
        problem = (
            "expected an id, which is text"
            if not is_written(self.id)
            else "ttl: expected seconds above 0"
            if not is_time
            else "extend is for a ttl: expected one"
            if self.extend and self.ttl is None
            else "expected ttl or keep_last_if_active, since BullMQ has no ttl for that"
            if self.keep_last_if_active and self.ttl is not None
            else None
        )
        if problem is not None:
            msg = f"{self!r}: {problem}"
            raise ConfigurationError(msg)


Backoff = Exponential | Fixed | float | str | Mapping[str, Any]
"""How long a failed job waits before its next attempt.

A number is exactly so many seconds, text the name of a strategy, and a mapping BullMQ's own object,
in milliseconds.
"""
Keep = int | str
"""How much of a queue's history is kept when a job ends, that job included.

``1000`` is so many jobs, ``"1h"`` or ``"7d"`` those that have ended within that time, ``"1000/1d"``
both; ``"none"`` keeps no job, and ``"all"`` is every one.
"""


class JobPolicy(TypedDict, total=False):
    """What a handler says for jobs whose own options say nothing, and a producer for one job.

    ``attempts`` is how often a job may run; ``backoff`` is how long it waits in between (see
    Backoff). ``keep_completed`` and ``keep_failed`` are how many jobs remain in Redis once they
    have ended so (see Keep): BullMQ's removeOnComplete and removeOnFail.
    """

    attempts: int | None
    backoff: Backoff | None
    keep_completed: Keep | None
    keep_failed: Keep | None


class ScheduledJobOptions(JobPolicy, total=False):
    """What a producer may say of the jobs of a schedule, in addition to JobPolicy.

    ``priority`` is from 1, which goes first, to 2097151; jobs without one, or with 0, go before all
    of these. ``lifo`` puts the job at the head of its queue. ``keep_logs`` is how many rows of the
    job's log remain, ``stack_trace_limit`` how many stack traces, and ``size_limit`` how many
    bytes its data may have as JSON.
    """

    priority: int | None
    lifo: bool | None
    keep_logs: int | None
    stack_trace_limit: int | None
    size_limit: int | None


class JobOptions(ScheduledJobOptions, total=False):
    """What a producer may say of one job; None is as good as nothing.

    ``attempts``, ``backoff``, ``keep_completed`` and ``keep_failed`` are those of JobPolicy;
    ``priority``, ``lifo``, ``keep_logs``, ``stack_trace_limit`` and ``size_limit`` those of
    ScheduledJobOptions. ``delay`` is the seconds before the job may start. ``deduplication`` is an
    id, or a Deduplication: no job is added while one with that id is there.
    """

    delay: float | None
    deduplication: str | Deduplication | None


class EnqueueOptions(JobOptions, total=False):
    """The keywords of ``enqueue`` besides what is added and its data.

    ``queue`` is the client's first by default, or that of a JobType. ``job_id`` makes adding
    idempotent: a job of that id that is there already is not added again; without it the job gets
    one that no queue has. ``on_commit=True`` adds it when the surrounding transaction of Django or
    SQLAlchemy commits, and not at all if that rolls back; it may be a session of SQLAlchemy, too.
    """

    queue: str | None
    job_id: str | None
    on_commit: Any


def is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def is_written(value: object) -> bool:
    """Whether that is text that goes to Redis as it is: UTF-8 has no lone surrogates."""
    return is_text(value) and _is_unicode(str(value))


def is_seconds(value: object) -> TypeGuard[float]:
    return is_number(value) and 0 <= value < _MOST_SECONDS


def is_count(value: object, least: int, most: int = _LARGEST) -> bool:
    return is_whole(value) and least <= value <= most


def _is_key(value: object) -> bool:
    return is_written(value) and not {":", LIFE_MARK} & {*str(value)}


def _is_keep(value: object) -> bool:
    try:
        parse_keep(value)
    except ValueError:
        return False
    return True


def _check_backoff(backoff: Exponential | Fixed) -> None:
    jitter = backoff.jitter
    if not is_seconds(backoff.delay):
        msg = f"{backoff!r}: delay: expected seconds, 0 or more"
        raise ConfigurationError(msg)
    if not (is_seconds(jitter) and jitter <= 1):
        msg = f"{backoff!r}: jitter: expected 0 to 1"
        raise ConfigurationError(msg)


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _same(value: Any) -> Any:
    return value


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _backoff_option(backoff: Backoff) -> dict[str, Any]:
    if isinstance(backoff, Mapping):
        return dict(backoff)
    if isinstance(backoff, str):
        return {"type": backoff}
    if not isinstance(backoff, (Exponential, Fixed)):
        return {"type": "fixed", "delay": _milliseconds(backoff)}
    kind = "exponential" if isinstance(backoff, Exponential) else "fixed"
    option: dict[str, Any] = {"type": kind, "delay": _milliseconds(backoff.delay)}
    if backoff.jitter:
        option["jitter"] = backoff.jitter
    if isinstance(backoff, Exponential) and backoff.longest is not None:
        option["maxDelay"] = _milliseconds(backoff.longest)
    return option


def _deduplication_option(given: str | Deduplication) -> dict[str, Any]:
    if isinstance(given, str):
        return {"id": given}
    option: dict[str, Any] = {"id": given.id}
    if given.ttl is not None:
        option["ttl"] = _milliseconds(given.ttl)
    flags = {
        "extend": given.extend,
        "replace": given.replace,
        "keepLastIfActive": given.keep_last_if_active,
    }
    return {**option, **{name: True for name, is_set in flags.items() if is_set}}


class _Keyword(Struct, frozen=True):
    """One keyword: what it may be, and the option that it becomes, if it becomes one."""

    is_good: Callable[[Any], bool]
    expected: str
    option: str = ""
    convert: Callable[[Any], Any] = _same


_MAY_BE: Mapping[str, _Keyword] = {
    "name": _Keyword(is_written, "a job name"),
    "id": _Keyword(is_written, "text"),
    "key": _Keyword(_is_key, f"text without ':' and {LIFE_MARK!r}"),
    "queue": _Keyword(
        lambda value: value is None or (is_written(value) and ":" not in value),
        "a queue's name, without a colon",
    ),
    "on_failure": _Keyword(
        lambda value: isinstance(value, str) and value in FAILURE_OPTIONS,
        f"one of {', '.join(FAILURE_OPTIONS)}",
    ),
}
_OPTIONS: Mapping[str, _Keyword] = {
    "attempts": _Keyword(lambda value: is_count(value, 1), "1 or more", "attempts"),
    "backoff": _Keyword(
        lambda value: (
            isinstance(value, (Exponential, Fixed))
            or (isinstance(value, Mapping) and _is_json({**value}))
            or is_seconds(value)
            or (is_written(value) and value not in BUILT_IN)
        ),
        "Exponential(2), Fixed(5), seconds, a strategy's name, or BullMQ's own object",
        "backoff",
        _backoff_option,
    ),
    "keep_completed": _Keyword(_is_keep, KEEP_EXPECTED, "removeOnComplete", parse_keep),
    "keep_failed": _Keyword(_is_keep, KEEP_EXPECTED, "removeOnFail", parse_keep),
    "delay": _Keyword(is_seconds, "seconds, 0 or more", "delay", _milliseconds),
    "priority": _Keyword(
        lambda value: is_count(value, 0, 2**21 - 1), "0 to 2097151, BullMQ's range", "priority"
    ),
    "lifo": _Keyword(lambda value: isinstance(value, bool), "True or False", "lifo"),
    "deduplication": _Keyword(
        lambda value: isinstance(value, Deduplication) or is_written(value),
        "an id, which is text, or Deduplication(...)",
        "deduplication",
        _deduplication_option,
    ),
    "keep_logs": _Keyword(lambda value: is_count(value, 0), "a number of rows", "keepLogs"),
    "stack_trace_limit": _Keyword(
        lambda value: is_count(value, 0), "a number of stack traces", "stackTraceLimit"
    ),
    "size_limit": _Keyword(lambda value: is_count(value, 1), "a number of bytes", "sizeLimit"),
}
OPTION_KEYWORDS = tuple(_OPTIONS)
"""The keywords that become options of a job: those of JobOptions."""


def check_keyword(where: str, what: str, value: object) -> None:
    """Raises ConfigurationError unless ``value`` can be what ``where`` calls ``what``."""
    keyword = _MAY_BE.get(what) or _OPTIONS[what]
    if not keyword.is_good(value):
        without = "" if not is_text(value) or is_written(value) else ", without a lone surrogate"
        msg = f"{where}({what}={value!r}): expected {keyword.expected}{without}"
        raise ConfigurationError(msg)


def job_options(where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns BullMQ's job options of JobOptions' keywords, by their long names.

    A keyword that is None is left out. Raises ConfigurationError, which names ``where`` it was
    given, the keyword, its value and what was expected.
    """
    options: dict[str, Any] = {}
    for what, value in given.items():
        if value is None and what in _OPTIONS:
            continue
        if what not in _OPTIONS:
            msg = f"{where}: unknown option {what!r}{_meant(what)}"
            raise ConfigurationError(msg)
        check_keyword(where, what, value)
        keyword = _OPTIONS[what]
        options[keyword.option] = keyword.convert(value)
    return options


def _meant(unknown: str) -> str:
    bullmqs = {keyword.option: what for what, keyword in _OPTIONS.items()}
    if unknown in bullmqs:
        return f"; BullMQ's {unknown} is {bullmqs[unknown]} here"
    near = suggestion(unknown, [*_OPTIONS], likeness=0.75)
    return near or "; a job's data is one argument, data"


def checked_id(job_id: object) -> str | None:
    """Returns a producer's own job id, by BullMQ's rules for them (its Job.validateOptions)."""
    if job_id is None:
        return None
    fits = isinstance(job_id, str) and not job_id.isdecimal() and ":" not in job_id
    if not fits or not isinstance(job_id, str) or not job_id or not _is_unicode(job_id):
        msg = f"job_id={job_id!r}: expected text that is not a whole number and has no ':'"
        raise ConfigurationError(msg)
    if job_id in OWN_KEYS:
        msg = f"job_id={job_id!r}: expected another, since a queue has a key of that name"
        raise ConfigurationError(msg)
    return job_id


def check_size(what: str, data: str, options: Mapping[str, Any]) -> None:
    """Raises ConfigurationError if ``data``, as JSON, has more bytes than its job's sizeLimit."""
    most = options.get("sizeLimit")
    if most is not None and (size := byte_size(data)) > most:
        msg = f"the data of {what} has {size} bytes: expected no more than its size_limit, {most}"
        raise ConfigurationError(msg)


def check_command_size(what: str, data: str, most: int) -> None:
    """Raises ConfigurationError if ``data``, as JSON, has more bytes than may be sent."""
    # No character has more than four bytes.
    if 4 * len(data) > most and (size := byte_size(data)) > most:
        msg = (
            f"the data of {what} has {size} bytes: expected no more than {most} "
            "(CONVOLAB_MAX_COMMAND_SIZE)"
        )
        raise ConfigurationError(msg)


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
