"""Flows: Child, a part of a job as its handler asks for it; adds children, reads their results."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from convolab_worker.bullmq import producer
from convolab_worker.bullmq.job_type import JobType, job_type_of
from convolab_worker.bullmq.protocol import calls
from convolab_worker.bullmq.protocol.client_calls import NewJob
from convolab_worker.bullmq.protocol.job_options import (
    ATTEMPT_MARK,
    FAILURE_OPTIONS,
    JobPolicy,
    check_option,
    job_options,
)
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import ConfigurationError, ConvolabWorkerError
from convolab_worker.payloads.encode import encode_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from convolab_worker.bullmq.backend import Backend
    from convolab_worker.bullmq.protocol.records import ActiveJob

OnFailure = Literal["fail", "ignore", "continue", "remove"]
P = TypeVar("P")
_CHECKED = ("name", "key", "queue", "attempts", "backoff", "delay", "priority", "on_failure")


class ChildOptions(JobPolicy, total=False):
    """The keywords of ``Child`` besides the job's own name and data."""

    queue: str | None
    key: str | None
    delay: float | None
    priority: int | None
    on_failure: OnFailure


@dataclass(frozen=True, slots=True)
class Child:
    """A part of a job, to be run as a BullMQ child.

    ``name`` is that of the job, its JobType or its handler; these two give the queue and options
    that are not given here, and ``data`` is checked as the handler will check it.
    ``key`` names its result within the parent (by default the job name), and makes its id: a child
    that is asked for twice is one job. ``queue`` is the parent's own by default. ``on_failure``
    says what happens if the child fails for good: ``fail`` the parent, ``ignore`` the failure (the
    parent goes on when the others are done), ``continue`` the parent at once, or ``remove`` the
    child from what the parent waits for. ``delay`` and ``backoff`` are seconds. Raises
    ConfigurationError for values that can't be, and InvalidPayload for data that the handler would
    refuse.
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

    if TYPE_CHECKING:

        @overload
        def __init__(
            self, job_type: JobType[P, Any], data: P, /, **options: Unpack[ChildOptions]
        ) -> None: ...

        @overload
        def __init__(
            self, handler: Callable[..., Any], data: Any, /, **options: Unpack[ChildOptions]
        ) -> None: ...

        @overload
        def __init__(self, name: str, data: Any = ..., **options: Unpack[ChildOptions]) -> None: ...

        def __init__(self, name: Any, data: Any = None, **options: Any) -> None: ...

    def __post_init__(self) -> None:
        target: object = self.name
        if not isinstance(target, str):
            self._become(job_type_of(target))
        for what in _CHECKED:
            check_option("Child", what, self.result_key if what == "key" else getattr(self, what))

    def _become(self, job_type: JobType[Any, Any]) -> None:
        """Take the name, and the queue and options that are not given, from a declaration."""
        job_type.encode(self.data)  # which raises for data that does not fit
        object.__setattr__(self, "name", job_type.name)
        for what, value in {"queue": job_type.queue, **job_type.options}.items():
            if getattr(self, what) is None:
                object.__setattr__(self, what, value)

    @property
    def result_key(self) -> str:
        """The name of the child's result within the parent."""
        return self.name if self.key is None else self.key

    @property
    def failure_option(self) -> str:
        return FAILURE_OPTIONS[self.on_failure]


def check_keys(children: Iterable[object]) -> tuple[Child, ...]:
    """Returns the children; raises ConfigurationError if there are none, or keys repeat."""
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


def not_ended(children: Iterable[Child], ended: Iterable[str]) -> list[Child]:
    """Returns those of ``children`` whose keys are not among those that have ``ended``.

    Raises ConvolabWorkerError if all of them have ended: the handler would ask for them for ever.
    """
    asked = list(children)
    left = [child for child in asked if child.result_key not in {*ended}]
    if not left:
        keys = ", ".join(child.result_key for child in asked)
        msg = f"enqueue_children: all of them have ended ({keys}): see children_results() first"
        raise ConvolabWorkerError(msg)
    return left


def child_id(parent_id: str, key: str, attempt: int) -> str:
    """Returns a child's job id: one for each attempt of its parent."""
    suffix = f"{ATTEMPT_MARK}{attempt}" if attempt > 1 else ""
    return f"{parent_id}.{key}{suffix}"


def by_key(parent_id: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Returns what BullMQ keeps by children's job keys by the keys that the handler knows.

    Where several attempts of the parent asked for a key, the newest one counts. Children that the
    handler did not ask for (those of a flow that Node added) go by their job id.
    """
    newest: dict[str, tuple[int, str]] = {}
    for job_key, text in texts.items():
        key, attempt = _key_and_attempt(parent_id, job_key)
        if attempt >= newest.get(key, (0, ""))[0]:
            newest[key] = attempt, text
    return {key: text for key, (_, text) in newest.items()}


def results_by_key(parent_id: str, processed: Mapping[str, str]) -> dict[str, Any]:
    """Returns children's results by key (see ``by_key``), from BullMQ's hash of JSON texts."""
    return {key: json.loads(text) for key, text in by_key(parent_id, processed).items()}


def _key_and_attempt(parent_id: str, job_key: str) -> tuple[str, int]:
    # A parent that a scheduler made has an id with colons: repeat:NAME:MILLISECONDS.
    _, is_ours, own = job_key.rpartition(f":{parent_id}.")
    if not is_ours or ":" in own:
        return job_key.rpartition(":")[2], 1
    key, _, attempt = own.partition(ATTEMPT_MARK)
    return key, int(attempt) if attempt.isdecimal() else 1


async def enqueue(
    backend: Backend, parent: ActiveJob, children: Sequence[Child], carried: Mapping[str, Any]
) -> None:
    """Adds those of ``children`` that have not ended yet; a child that is there is left alone.

    ``carried`` are options that they get in addition to their own. Raises ConvolabWorkerError if
    all of them have ended.
    """
    asked = list(children)
    if parent.starts > 1:
        processed, failed = await _ended(backend, parent)
        asked = not_ended(asked, by_key(parent.id, {**failed, **processed}))
        asked = [child for child in asked if not await _has_failed(backend, parent, child)]
    for child in asked:
        job = _new_job(backend, parent, child, carried)
        await producer.add(backend.connection, backend.keys_of(child.queue or parent.queue), job)


async def _has_failed(backend: Backend, parent: ActiveJob, child: Child) -> bool:
    """Whether a child has failed of which its parent was not told; if so, it is told now."""
    keys = backend.keys_of(child.queue or parent.queue)
    job_id = child_id(parent.id, child.result_key, parent.attempt)
    if await backend.connection.call(Purpose.FETCH, "ZSCORE", keys["failed"], job_id) is None:
        return False
    reason = await backend.connection.call(Purpose.FETCH, "HGET", keys.job(job_id), "failedReason")
    parents = backend.keys[parent.queue]
    call = calls.add_failed_child(parents, parent, keys.job(job_id), reason or b"")
    await run_script(backend.connection, Purpose.FETCH, call)
    return True


async def results(backend: Backend, parent: ActiveJob) -> dict[str, Any]:
    """Returns the results of the children that have ended by key; None for one that failed."""
    processed, failed = await _ended(backend, parent)
    return {**dict.fromkeys(by_key(parent.id, failed)), **results_by_key(parent.id, processed)}


async def failures(backend: Backend, parent: ActiveJob) -> dict[str, str]:
    """Returns by key why children failed whose failure does not fail their parent."""
    _, failed = await _ended(backend, parent)
    return by_key(parent.id, failed)


async def drop(backend: Backend, parent: ActiveJob) -> None:
    """Removes the job's children that have not started; doing it again does nothing."""
    call = calls.drop_children(backend.keys[parent.queue], parent)
    await run_script(backend.connection, Purpose.ENQUEUE, call)


async def _ended(backend: Backend, parent: ActiveJob) -> tuple[dict[str, str], dict[str, str]]:
    job_key = backend.keys[parent.queue].job(parent.id)
    answers = await asyncio.gather(
        *[
            backend.connection.call(Purpose.FETCH, "HGETALL", f"{job_key}:{kind}")
            for kind in ("processed", "failed")
        ]
    )
    processed, failed = ([part.decode("utf-8", "replace") for part in flat] for flat in answers)
    return _pairs(processed), _pairs(failed)


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _new_job(
    backend: Backend, parent: ActiveJob, child: Child, carried: Mapping[str, Any]
) -> NewJob:
    options = job_options(
        child.name,
        delay=child.delay,
        priority=child.priority,
        attempts=child.attempts,
        backoff=child.backoff,
    )
    return NewJob(
        id=child_id(parent.id, child.result_key, parent.attempt),
        name=child.name,
        data=encode_data(child.data, what=f"data of the child {child.result_key!r}"),
        opts={child.failure_option: True, **carried, **options},
        parent=parent.id,
        parent_queue=backend.keys[parent.queue].base.removesuffix(":"),
    )
