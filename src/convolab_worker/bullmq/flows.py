"""Enqueues the children that a handler asks for, and reads what became of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq import producer
from convolab_worker.bullmq.children import by_key, child_id, not_ended, results_by_key
from convolab_worker.bullmq.producer import NewJob
from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.connection.usage import Purpose
from convolab_worker.payloads.encode import encode_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convolab_worker.bullmq.backend import Backend
    from convolab_worker.bullmq.children import Child
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.records import ActiveJob


async def enqueue(
    backend: Backend, parent: ActiveJob, children: Sequence[Child], carried: Mapping[str, Any]
) -> None:
    """Add those of ``children`` that have not ended yet; one that was added before is not again.

    ``carried`` are options that they get beside their own.

    Raises ConvolabWorkerError if all of them have ended: the handler would ask for ever.
    """
    asked = list(children)
    if parent.starts > 1:
        asked = not_ended(asked, await results(backend, parent))
        asked = [child for child in asked if not await _has_failed(backend, parent, child)]
    for child in asked:
        job = _job(backend, parent, child, carried)
        await producer.add(backend.connection, backend.counter, _keys(backend, parent, child), job)


async def _has_failed(backend: Backend, parent: ActiveJob, child: Child) -> bool:
    """Whether a child has failed of which its parent was not told; if so, it is told now."""
    keys = _keys(backend, parent, child)
    own_id = child_id(parent.id, child.result_key, parent.attempt)
    if await backend.connection.call(Purpose.FETCH, "ZSCORE", keys["failed"], own_id) is None:
        return False
    reason = await backend.connection.call(Purpose.FETCH, "HGET", keys.job(own_id), "failedReason")
    failures = f"{backend.keys[parent.queue].job(parent.id)}:failed"
    await backend.connection.call(Purpose.FETCH, "HSET", failures, keys.job(own_id), reason or "")
    return True


async def results(backend: Backend, parent: ActiveJob) -> dict[str, Any]:
    """The results of the children that have ended by their keys; None for one that failed."""
    processed, failed = await _ended(backend, parent)
    return {**dict.fromkeys(by_key(parent.id, failed)), **results_by_key(parent.id, processed)}


async def failures(backend: Backend, parent: ActiveJob) -> dict[str, str]:
    """Why children failed whose failure does not fail their parent, by their keys."""
    _, failed = await _ended(backend, parent)
    return by_key(parent.id, failed)


async def drop(backend: Backend, parent: ActiveJob) -> None:
    """Remove the job's children that have not started; doing it again does nothing."""
    keys = backend.keys[parent.queue]
    call = Call(
        "removeUnprocessedChildren", [keys.job(parent.id), keys["meta"]], (keys.base, parent.id)
    )
    await script(call.script).run(backend.connection, Purpose.ENQUEUE, call.keys, call.args)


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


def _keys(backend: Backend, parent: ActiveJob, child: Child) -> QueueKeys:
    return backend.keys_of(child.queue or parent.queue)


def _job(backend: Backend, parent: ActiveJob, child: Child, carried: Mapping[str, Any]) -> NewJob:
    opts: dict[str, object] = {child.failure_option: True, **carried}
    if child.attempts is not None:
        opts["attempts"] = child.attempts
    if child.priority is not None:
        opts["priority"] = child.priority
    if child.delay is not None:
        opts["delay"] = round(child.delay * 1000)
    if isinstance(child.backoff, (int, float)):
        opts["backoff"] = {"type": "fixed", "delay": round(child.backoff * 1000)}
    elif child.backoff is not None:
        opts["backoff"] = dict(child.backoff)
    return NewJob(
        id=child_id(parent.id, child.result_key, parent.attempt),
        name=child.name,
        data=encode_json(child.data, what=f"data of the child {child.result_key!r}"),
        opts=opts,
        parent=parent.id,
        parent_queue=backend.keys[parent.queue].base.removesuffix(":"),
    )
