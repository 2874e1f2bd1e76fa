"""The children that a parent asks for: their checks, and their job ids. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from convolab_worker.bullmq.protocol.keys import queue_and_id

# At run time, since tools ask for the types of a Child's fields.
from convolab_worker.bullmq.protocol.keyword_types import Backoff, Keep  # noqa: TC001
from convolab_worker.bullmq.protocol.keywords import (
    FAILURE_OPTIONS,
    LIFE_MARK,
    check_keyword,
    job_options,
)
from convolab_worker.errors import ConfigurationError, ConvolabWorkerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.records import ActiveJob

OnFailure = Literal["fail", "ignore", "continue", "remove"]
_OPTIONS = (
    "attempts", "backoff", "delay", "priority", "keep_completed", "keep_failed", "lifo",
    "keep_logs", "stack_trace_limit", "size_limit",
)  # fmt: skip


class ChildJob(Struct, frozen=True):
    """A part of a job as BullMQ knows it; handlers make it as ``handlers.job.children.Child``.

    Raises ConfigurationError for values that can't be.
    """

    name: str
    data: Any = {}
    queue: str | None = None
    key: str | None = None
    attempts: int | None = None
    backoff: Backoff | None = None
    delay: float | None = None
    priority: int | None = None
    on_failure: OnFailure = "fail"
    keep_completed: Keep | None = None
    keep_failed: Keep | None = None
    lifo: bool | None = None
    keep_logs: int | None = None
    stack_trace_limit: int | None = None
    size_limit: int | None = None

    def __post_init__(self) -> None:
        for what in ("name", "queue", "on_failure"):
            check_keyword("Child", what, getattr(self, what))
        check_keyword("Child", "key", self.result_key)
        self.job_options()

    def job_options(self) -> dict[str, Any]:
        """BullMQ's job options of the child, without those that concern its parent."""
        return job_options("Child", {what: getattr(self, what) for what in _OPTIONS})

    @property
    def result_key(self) -> str:
        """The name of the child's result within the parent."""
        return self.name if self.key is None else self.key

    @property
    def failure_option(self) -> str:
        return FAILURE_OPTIONS[self.on_failure]


def check_keys(children: Iterable[object]) -> tuple[ChildJob, ...]:
    """Returns the children; raises ConfigurationError if there are none, or keys repeat."""
    checked: list[ChildJob] = []
    seen: set[str] = set()
    for child in children:
        if not isinstance(child, ChildJob):
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


def not_ended(children: Iterable[ChildJob], ended: Iterable[str]) -> list[ChildJob]:
    """Returns those of ``children`` whose keys are not among those that have ``ended``."""
    known = {*ended}
    return [child for child in children if child.result_key not in known]


def nothing_to_wait_for(children: Iterable[ChildJob], ended: Iterable[str]) -> ConvolabWorkerError:
    """Returns why a job that asks for ``children`` fails: called again, it would ask for ever."""
    asked = [child.result_key for child in children]
    keys = ", ".join(asked)
    if {*asked} <= {*ended}:
        msg = f"enqueue_children: all of them have ended ({keys}): see children_results() first"
    else:
        msg = (
            f"enqueue_children: no child is pending, and none has ended since the handler"
            f" was called ({keys}): were they removed?"
        )
    return ConvolabWorkerError(msg)


class ChildIds(Struct, frozen=True):
    """The job ids of the children that one parent asks for.

    An id is PARENT.KEY~LIFE, and PARENT.KEY~LIFE.ATTEMPT from the parent's second attempt on. LIFE
    stands for the parent's id and queue, and for the time when it was added: Node's ids count from
    1 in each queue, and again in a queue that was obliterated, while children stay in completed.
    """

    parent: str
    life: str
    attempt: int

    @classmethod
    def of(cls, keys: QueueKeys, parent: ActiveJob) -> ChildIds:
        """Returns the ids that ``parent``, a job of the queue with those keys, gives."""
        import hashlib  # costs a start 0.6 MB and 2 ms; few jobs have children

        told = f"{parent.timestamp}:{keys.job(parent.id)}".encode("utf-8", "surrogateescape")
        life = hashlib.blake2s(told, digest_size=4).hexdigest()
        return cls(parent.id, life, parent.attempt)

    def id_of(self, key: str) -> str:
        suffix = f".{self.attempt}" if self.attempt > 1 else ""
        return f"{self.parent}.{key}{LIFE_MARK}{self.life}{suffix}"

    def key_and_attempt(self, job_id: str) -> tuple[str, int] | None:
        """Returns the key and the attempt of an id that ``id_of`` made; None for any other id."""
        own, has_mark, suffix = job_id.rpartition(LIFE_MARK)
        life, has_attempt, attempt = suffix.partition(".")
        is_ours = has_mark and life == self.life and own.startswith(f"{self.parent}.")
        if not is_ours or (has_attempt and not attempt.isdecimal()):
            return None
        return own.removeprefix(f"{self.parent}."), int(attempt or 1)


def by_key(ids: ChildIds, prefix: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Takes what BullMQ keeps by children's job keys; returns it by the keys the handler knows.

    Where several attempts of the parent asked for a key, the newest one counts. Children that the
    handler did not ask for (those of a flow that Node added) go by their job id; where several
    queues have a child of that id, by QUEUE:ID. ``prefix`` is that of the parent's keys.
    """
    newest: dict[str, tuple[int, str]] = {}
    others: dict[str, list[tuple[str, str]]] = {}
    for job_key, text in texts.items():
        queue, job_id = queue_and_id(prefix, job_key)
        ours = ids.key_and_attempt(job_id)
        if ours is None:
            others.setdefault(job_id, []).append((queue, text))
        elif ours[1] >= newest.get(ours[0], (0, ""))[0]:
            newest[ours[0]] = ours[1], text
    told = {key: text for key, (_, text) in newest.items()}
    for job_id, found in others.items():
        is_known = len(found) == 1 and job_id not in told
        told.update({job_id if is_known else f"{queue}:{job_id}": text for queue, text in found})
    return told
