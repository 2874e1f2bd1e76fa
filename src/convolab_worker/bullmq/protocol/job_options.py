"""BullMQ's job options: their names, a producer's keywords as options, and their meaning at an end.

A producer's keywords are checked before anything is sent; what other producers have stored is read
without ever raising.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from convolab_worker.errors import ConfigurationError

# BullMQ's short names of job options, as stored (bullmq.job.optsDecodeMap).
LONG_NAMES: Mapping[str, str] = {
    "fpof": "failParentOnFailure",
    "cpof": "continueParentOnFailure",
    "idof": "ignoreDependencyOnFailure",
    "rdof": "removeDependencyOnFailure",
    "kl": "keepLogs",
    "de": "deduplication",
}
_SHORT_NAMES = {long: short for short, long in LONG_NAMES.items()}
# What a child's failure does to its parent, and BullMQ's option for it.
FAILURE_OPTIONS = {
    "fail": "failParentOnFailure",
    "ignore": "ignoreDependencyOnFailure",
    "continue": "continueParentOnFailure",
    "remove": "removeDependencyOnFailure",
}
ATTEMPT_MARK = "~"  # separates a child's key from its parent's attempt, in the child's job id
_LARGEST_IN_LUA = 2**53
_MOST_SECONDS = 1e10  # some 300 years


class JobPolicy(TypedDict, total=False):
    """What a producer's keywords, a JobType and a handler may say of a job's attempts.

    ``attempts`` is the most there are; ``backoff`` the seconds between them, or BullMQ's own
    object, in milliseconds. None is as good as not given.
    """

    attempts: int | None
    backoff: float | Mapping[str, Any] | None


class EnqueueOptions(JobPolicy, total=False):
    """The keywords of ``enqueue`` besides what is added and its data.

    ``queue`` is the client's first by default. ``delay`` is seconds. ``job_id`` makes adding
    idempotent: a job of that id that is there already is not added again.
    """

    queue: str | None
    job_id: str | None
    delay: float | None
    priority: int | None
    deduplication_id: str | None


class Options(dict[str, Any]):
    """A job's options by their long names; jobs with the same options share one object.

    ``at_end`` keeps what ``end_options`` has made of them.
    """

    __slots__ = ("at_end",)

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.at_end: dict[str, Mapping[str, Any]] = {}


def short_options(opts: Mapping[str, Any]) -> dict[str, Any]:
    return {_SHORT_NAMES.get(key, key): value for key, value in opts.items()}


def end_options(opts: Mapping[str, Any], target: str) -> Mapping[str, Any]:
    """What the script that ends a job wants to know of its options.

    Making it takes longer than packing it, and jobs with the same options follow each other.
    """
    known: dict[str, Mapping[str, Any]] = opts.at_end if isinstance(opts, Options) else {}
    found = known.get(target)
    if found is None:
        remove = opts.get("removeOnComplete" if target == "completed" else "removeOnFail")
        found = known[target] = {
            "keepJobs": _keep_jobs(remove),
            "attempts": _number(opts.get("attempts"), otherwise=0),
            "fpof": bool(opts.get("failParentOnFailure")),
            "cpof": bool(opts.get("continueParentOnFailure")),
            "idof": bool(opts.get("ignoreDependencyOnFailure")),
            "rdof": bool(opts.get("removeDependencyOnFailure")),
        }
    return found


def _keep_jobs(remove: object) -> Mapping[str, Any]:
    """What BullMQ's ``removeOnComplete`` and ``removeOnFail`` mean (Scripts.getKeepJobs).

    A part that is no number is left out: the script would stop half-way on it.
    """
    if isinstance(remove, (dict, list)):
        given = remove if isinstance(remove, dict) else {}
        known = {key: _number(given.get(key), otherwise=None) for key in ("count", "age", "limit")}
        return {key: value for key, value in known.items() if value is not None}
    return {"count": _number(remove, otherwise=0 if remove else -1)}


def _number(value: object, *, otherwise: int | None) -> float | None:
    """``value`` if it is a number that Lua keeps exactly, or ``otherwise``."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return otherwise
    return value if abs(value) <= _LARGEST_IN_LUA else otherwise


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_key(value: object) -> bool:
    return isinstance(value, str) and value != "" and not {":", ATTEMPT_MARK} & {*value}


def _is_seconds(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value < _MOST_SECONDS  # type: ignore[operator]


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


_RULES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "name": (_is_text, "a job name"),
    "key": (_is_key, f"text without ':' and {ATTEMPT_MARK!r}"),
    "queue": (lambda value: value is None or _is_text(value), "a queue's name"),
    "attempts": (lambda value: value is None or _is_whole(value, 1, 2**53), "1 or more"),
    "backoff": (
        lambda value: value is None or isinstance(value, Mapping) or _is_seconds(value),
        "seconds, or BullMQ's own object",
    ),
    "delay": (lambda value: value is None or _is_seconds(value), "seconds, 0 or more"),
    "priority": (
        lambda value: value is None or _is_whole(value, 0, 2**21 - 1),
        "0 to 2097151, BullMQ's range",
    ),
    "on_failure": (
        lambda value: isinstance(value, str) and value in FAILURE_OPTIONS,
        f"one of {', '.join(FAILURE_OPTIONS)}",
    ),
    "deduplication_id": (_is_text, "text"),
}


def check_option(where: str, what: str, value: object) -> None:
    """Raises ConfigurationError unless ``value`` can be the option ``what`` of a job."""
    is_good, expected = _RULES[what]
    if not is_good(value):
        msg = f"{where}({what}={value!r}): expected {expected}"
        raise ConfigurationError(msg)


def job_options(name: str, **given: Any) -> dict[str, Any]:
    """Returns BullMQ's options for a job called ``name``, of the keywords of ``enqueue``.

    ``delay`` and ``backoff`` are seconds; None is as good as not given. Raises ConfigurationError,
    which names the keyword, its value and what was expected.
    """
    check_option("enqueue", "name", name)
    options: dict[str, Any] = {}
    for what, value in given.items():
        if value is None:
            continue
        check_option("enqueue", what, value)
        if what == "delay":
            options[what] = round(value * 1000)
        elif what == "backoff":
            fixed = not isinstance(value, Mapping)
            options[what] = (
                {"type": "fixed", "delay": round(value * 1000)} if fixed else dict(value)
            )
        elif what == "deduplication_id":
            options["deduplication"] = {"id": value}
        else:
            options[what] = value
    return options


def checked_id(job_id: object) -> str | None:
    """Returns a producer's own job id, by BullMQ's rules for them (its Job.validateOptions)."""
    if job_id is None:
        return None
    fits = isinstance(job_id, str) and job_id != "" and not job_id.isdecimal() and ":" not in job_id
    if not fits or not isinstance(job_id, str) or not _is_unicode(job_id):
        msg = f"job_id={job_id!r}: expected text that is not a whole number and has no ':'"
        raise ConfigurationError(msg)
    return job_id


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
