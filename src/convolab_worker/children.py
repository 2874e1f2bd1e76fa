"""Child: a part of a job, as its handler asks for it; and the children's names and results."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OnFailure = Literal["fail", "ignore", "continue", "remove"]

# BullMQ's option for what a child's failure does to its parent.
_FAILURE_OPTIONS = {
    "fail": "failParentOnFailure",
    "ignore": "ignoreDependencyOnFailure",
    "continue": "continueParentOnFailure",
    "remove": "removeDependencyOnFailure",
}
_ATTEMPT_MARK = "~"


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
        """Raise ConfigurationError for a name, key or rule that can't be."""
        if not self.name or not isinstance(self.name, str):
            msg = f"Child(name={self.name!r}): expected a job name"
            raise ConfigurationError(msg)
        if any(mark in self.result_key for mark in (":", _ATTEMPT_MARK)) or not self.result_key:
            msg = f"Child(key={self.result_key!r}): expected text without ':' and {_ATTEMPT_MARK!r}"
            raise ConfigurationError(msg)
        if self.on_failure not in _FAILURE_OPTIONS:
            expected = ", ".join(_FAILURE_OPTIONS)
            msg = f"Child(on_failure={self.on_failure!r}): expected one of {expected}"
            raise ConfigurationError(msg)

    @property
    def result_key(self) -> str:
        """The name of its result within the parent."""
        return self.name if self.key is None else self.key

    @property
    def failure_option(self) -> str:
        """BullMQ's name for ``on_failure``."""
        return _FAILURE_OPTIONS[self.on_failure]


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


def child_id(parent_id: str, key: str, attempt: int) -> str:
    """The job id of a child: the same for each asking, another for each attempt of its parent."""
    suffix = f"{_ATTEMPT_MARK}{attempt}" if attempt > 1 else ""
    return f"{parent_id}.{key}{suffix}"


def results_by_key(parent_id: str, processed: Mapping[str, str]) -> dict[str, Any]:
    """Children's results by key, from BullMQ's hash of job key to JSON text.

    Children that were not made by ``enqueue_children`` (a flow of Node's) go by their job id.
    """
    results: dict[str, Any] = {}
    for job_key, text in processed.items():
        job_id = job_key.rpartition(":")[2]
        key = job_id
        if job_id.startswith(f"{parent_id}."):
            key = job_id[len(parent_id) + 1 :].partition(_ATTEMPT_MARK)[0]
        results[key] = json.loads(text)
    return results
