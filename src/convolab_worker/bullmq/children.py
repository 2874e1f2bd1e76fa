"""Child: a part of a job, as its handler asks for it; and the children's names and results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from convolab_worker.errors import ConfigurationError, ConvolabWorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

OnFailure = Literal["fail", "ignore", "continue", "remove"]

# BullMQ's option for what a child's failure does to its parent.
_FAILURE_OPTIONS = {
    "fail": "failParentOnFailure",
    "ignore": "ignoreDependencyOnFailure",
    "continue": "continueParentOnFailure",
    "remove": "removeDependencyOnFailure",
}
_ATTEMPT_MARK = "~"
_MOST_SECONDS = 1e10  # some 300 years


@dataclass(frozen=True, slots=True)
class Child:
    """A part of a job, to be run as a BullMQ child.

    ``key`` names its result within the parent (by default the job name), and makes its id: asked
    for twice, it is one job. ``queue`` is the parent's own by default. ``on_failure`` says what a
    child that failed for good does: ``fail`` the parent, ``ignore`` it (the parent goes on when
    the others are done), ``continue`` the parent at once, or ``remove`` it from what the parent
    waits for. ``delay`` and ``backoff`` are seconds.
    """

    name: str
    data: Any = field(default_factory=dict)
    queue: str | None = None
    key: str | None = None
    attempts: int | None = None
    backoff: float | Mapping[str, Any] | None = None
    delay: float | None = None
    priority: int | None = None
    on_failure: OnFailure = "fail"

    def __post_init__(self) -> None:
        """Raise ConfigurationError, before anything is sent, for what can't be."""
        for what in _RULES:
            value = self.result_key if what == "key" else getattr(self, what)
            check_option("Child", what, value)

    @property
    def result_key(self) -> str:
        """The name of its result within the parent."""
        return self.name if self.key is None else self.key

    @property
    def failure_option(self) -> str:
        """BullMQ's name for ``on_failure``."""
        return _FAILURE_OPTIONS[self.on_failure]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_key(value: object) -> bool:
    return isinstance(value, str) and value != "" and not {":", _ATTEMPT_MARK} & {*value}


def _is_seconds(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value < _MOST_SECONDS  # type: ignore[operator]


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


_RULES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "name": (_is_text, "a job name"),
    "key": (_is_key, f"text without ':' and {_ATTEMPT_MARK!r}"),
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
        lambda value: isinstance(value, str) and value in _FAILURE_OPTIONS,
        f"one of {', '.join(_FAILURE_OPTIONS)}",
    ),
}


def check_option(where: str, what: str, value: object) -> None:
    """Raise ConfigurationError unless ``value`` can be the option ``what`` of a job."""
    is_good, expected = _RULES[what]
    if not is_good(value):
        msg = f"{where}({what}={value!r}): expected {expected}"
        raise ConfigurationError(msg)


def check_keys(children: Iterable[object]) -> tuple[Child, ...]:
    """The children as a tuple; raises ConfigurationError if there are none, or keys repeat."""
    checked: list[Child] = []
    seen: set[str] = set()
    for child in children:
        if not isinstance(child, Child):
            msg = f"enqueue_children: expected Child objects, got {type(child).__name__}"
            raise ConfigurationError(msg)
        if child.result_key in seen:
            msg = f"enqueue_children: two children have the key {child.result_key!r}: give each one"
            raise ConfigurationError(msg)
        seen.add(child.result_key)
        checked.append(child)
    if not checked:
        msg = "enqueue_children([]): expected at least one child"
        raise ConfigurationError(msg)
    return tuple(checked)


def not_ended(children: Iterable[Child], ended: Mapping[str, object]) -> list[Child]:
    """Those of ``children`` that have not ended yet.

    Raises ConvolabWorkerError if all of them have: the handler would ask for ever.
    """
    asked = list(children)
    left = [child for child in asked if child.result_key not in ended]
    if not left:
        keys = ", ".join(child.result_key for child in asked)
        msg = f"enqueue_children: all of them have ended ({keys}): see children_results() first"
        raise ConvolabWorkerError(msg)
    return left


def child_id(parent_id: str, key: str, attempt: int) -> str:
    """The job id of a child: the same for each asking, another for each attempt of its parent."""
    suffix = f"{_ATTEMPT_MARK}{attempt}" if attempt > 1 else ""
    return f"{parent_id}.{key}{suffix}"


def by_key(parent_id: str, texts: Mapping[str, str]) -> dict[str, str]:
    """What BullMQ keeps by children's job keys, by the keys that ``enqueue_children`` was given.

    A key that several attempts of the parent asked for has the newest one's text. Children that
    were not made by ``enqueue_children`` (a flow of Node's) go by their job id.
    """
    newest: dict[str, tuple[int, str]] = {}
    for job_key, text in texts.items():
        key, attempt = _key_and_attempt(parent_id, job_key)
        if attempt >= newest.get(key, (0, ""))[0]:
            newest[key] = attempt, text
    return {key: text for key, (_, text) in newest.items()}


def results_by_key(parent_id: str, processed: Mapping[str, str]) -> dict[str, Any]:
    """Children's results by key (see ``by_key``), from BullMQ's hash of job key to JSON text."""
    return {key: json.loads(text) for key, text in by_key(parent_id, processed).items()}


def _key_and_attempt(parent_id: str, job_key: str) -> tuple[str, int]:
    # A parent that a scheduler made has an id with colons: repeat:NAME:MILLISECONDS.
    _, is_ours, own = job_key.rpartition(f":{parent_id}.")
    if not is_ours or ":" in own:
        return job_key.rpartition(":")[2], 1
    key, _, attempt = own.partition(_ATTEMPT_MARK)
    return key, int(attempt) if attempt.isdecimal() else 1
