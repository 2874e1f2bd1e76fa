"""Flows: Child, a part of a job as its handler asks for it; adds children, reads their results."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from convolab_worker.bullmq import producer
from convolab_worker.bullmq.protocol import calls
from convolab_worker.bullmq.protocol.client_calls import NewJob
from convolab_worker.bullmq.protocol.job_options import (
    ATTEMPT_MARK,
    FAILURE_OPTIONS,
    check_option,
    job_options,
)
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import ConfigurationError, ConvolabWorkerError
from convolab_worker.payloads.encode import encode_data

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from convolab_worker.bullmq.backend import Backend
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.records import ActiveJob

OnFailure = Literal["fail", "ignore", "continue", "remove"]
_CHECKED = ("name", "key", "queue", "attempts", "backoff", "delay", "priority", "on_failure")


@dataclass(frozen=True, slots=True)
class Child:
    """A part of a job, to be run as a BullMQ child.

    ``key`` names its result within the parent (by default the job name), and makes its id: a child
    that is asked for twice is one job. ``queue`` is the parent's own by default. ``on_failure``
    says what happens if the child fails for good: ``fail`` the parent, ``ignore`` the failure (the
    parent goes on when the others are done), ``continue`` the parent at once, or ``remove`` the
    child from what the parent waits for. ``delay`` and ``backoff`` are seconds. Raises
    ConfigurationError for values that can't be.
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
        for what in _CHECKED:
            check_option("Child", what, self.result_key if what == "key" else getattr(self, what))

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
    """Returns those of ``children`` whose keys are not among those that have ``ended``."""
    known = {*ended}
    return [child for child in children if child.result_key not in known]


def all_had_ended(children: Iterable[Child]) -> ConvolabWorkerError:
    """Returns why a handler fails that asks for children which had ended before it began.

    It would ask for them for ever.
    """
    keys = ", ".join(child.result_key for child in children)
    return ConvolabWorkerError(
        f"enqueue_children: all of them have ended ({keys}): see children_results() first"
    )


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


async def left_to_add(
    backend: Backend, parent: ActiveJob, children: Sequence[Child]
) -> list[Child]:
    """Returns those of ``children`` that have not ended; one that waits or runs is among them.

    Nothing is asked on behalf of a parent that can't have added any.
    """
    if parent.starts == 1 and not parent.has_asked:
        return list(children)
    processed, failed = await _ended(backend, parent)
    left = not_ended(children, by_key(parent.id, {**failed, **processed}))
    gone = await asyncio.gather(*[_has_failed(backend, parent, child) for child in left])
    return [child for child, has_failed in zip(left, gone, strict=True) if not has_failed]


def pipelines(
    backend: Backend, parent: ActiveJob, children: Sequence[Child], carried: Mapping[str, Any]
) -> Iterator[list[tuple[QueueKeys, NewJob]]]:
    """Yields the children as new jobs, in lists that ``producer.add_all`` adds at once.

    ``carried`` are options that they get in addition to their own. Each list is made when it is
    asked for. A child that is there is left alone by the script that adds it.
    """
    return producer.pipelines(
        (backend.keys_of(child.queue or parent.queue), _new_job(backend, parent, child, carried))
        for child in children
    )


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
