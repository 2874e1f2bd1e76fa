"""Keywords of producers and handlers, checked before anything is sent, as BullMQ's job options."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from convolab_worker.bullmq.protocol.keys import OWN_KEYS
from convolab_worker.bullmq.protocol.keyword_types import Backoff, Deduplication, Exponential, Fixed
from convolab_worker.errors import ConfigurationError
from convolab_worker.payloads.encode import byte_size
from convolab_worker.settings.kinds import suggestion
from convolab_worker.settings.units import (
    KEEP_EXPECTED,
    is_count,
    is_seconds,
    is_text,
    is_written,
    parse_keep,
)

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


def _is_key(value: object) -> bool:
    return is_written(value) and not {":", LIFE_MARK} & {*value}


def _is_keep(value: object) -> bool:
    try:
        parse_keep(value)
    except ValueError:
        return False
    return True


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
    if not is_written(job_id) or job_id.isdecimal() or ":" in job_id:
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
