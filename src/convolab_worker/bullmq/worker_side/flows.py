"""Flows: adds a job's children, and reads their results."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq import producer
from convolab_worker.bullmq.jobs.child_jobs import ChildIds, by_key, not_ended, nothing_to_wait_for
from convolab_worker.bullmq.protocol import calls
from convolab_worker.bullmq.protocol.client_calls import NewJob
from convolab_worker.bullmq.protocol.keywords import check_size
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.payloads.encode import encode_data

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from convolab_worker.bullmq.jobs.child_jobs import ChildJob
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.bullmq.worker_side.backend import Backend


async def left_to_add(
    backend: Backend, parent: ActiveJob, children: Sequence[ChildJob]
) -> list[ChildJob]:
    """Returns those of ``children`` that have not ended; one that waits or runs is among them.

    Nothing is asked where the parent can't have added any.
    """
    if parent.starts == 1 and not parent.has_asked and parent.children_ended is None:
        return list(children)
    processed, failed = await _ended(backend, parent)
    if parent.children_ended is None and parent.starts > 1:
        # The handler did not ask, but could have known of these.
        parent.children_ended = len(processed) + len(failed)
    left = not_ended(children, _by_key(backend, parent, {**failed, **processed}))
    gone = await asyncio.gather(*[_has_failed(backend, parent, child) for child in left])
    return [child for child, has_failed in zip(left, gone, strict=True) if not has_failed]


def pipelines(
    backend: Backend, parent: ActiveJob, children: Sequence[ChildJob], carried: Mapping[str, Any]
) -> Iterator[list[tuple[QueueKeys, NewJob]]]:
    """Yields the children as new jobs, in lists that ``producer.add_all`` adds at once.

    ``carried`` are options that they get in addition to their own. Each list is made when it is
    asked for. The script that adds a child does nothing if the child is there already.
    """
    ids = ChildIds.of(backend.keys[parent.queue], parent)
    jobs = (
        (
            backend.keys_of(child.queue or parent.queue),
            _new_job(backend, parent, ids.id_of(child.result_key), child, carried),
        )
        for child in children
    )
    return producer.pipelines(jobs, lambda added: len(added[1].data))


def keys_going_on(backend: Backend, parent: ActiveJob, children: Iterable[ChildJob]) -> list[str]:
    """Returns the keys of the children whose failure lets their parent go on at once."""
    ids = ChildIds.of(backend.keys[parent.queue], parent)
    return [
        backend.keys_of(child.queue or parent.queue).job(ids.id_of(child.result_key))
        for child in children
        if child.on_failure == "continue"
    ]


async def have_ended(backend: Backend, parent: ActiveJob, children: Sequence[ChildJob]) -> bool:
    """Returns whether children have ended of which the parent's handler has not been told.

    If so, it is called again, and is told of them: it gets the same answer twice only if further
    ones have ended. Raises ConvolabWorkerError otherwise if all of ``children`` have ended: the
    handler did not look at their results.
    """
    processed, failed = await _ended(backend, parent)
    ended = _by_key(backend, parent, {**failed, **processed})
    told, parent.children_ended = parent.children_ended, len(processed) + len(failed)
    if told is not None:
        has_news = parent.children_ended > told
    else:  # in its first run no child had ended before
        has_news = len(not_ended(children, ended)) < len(children)
    if not has_news and not not_ended(children, ended):
        raise nothing_to_wait_for(children, ended)
    return has_news


async def _has_failed(backend: Backend, parent: ActiveJob, child: ChildJob) -> bool:
    """Whether a child has failed of which its parent was not told; if so, it is told now."""
    keys = backend.keys_of(child.queue or parent.queue)
    job_id = ChildIds.of(backend.keys[parent.queue], parent).id_of(child.result_key)
    if await backend.connection.call(Purpose.FETCH, "ZSCORE", keys["failed"], job_id) is None:
        return False
    reason = await backend.connection.call(Purpose.FETCH, "HGET", keys.job(job_id), "failedReason")
    parents = backend.keys[parent.queue]
    call = calls.add_failed_child(parents, parent, keys.job(job_id), reason or b"")
    await run_script(backend.connection, Purpose.FETCH, call)
    return True


async def results(backend: Backend, parent: ActiveJob) -> dict[str, Any]:
    """Returns the results of the children that have ended by key; None for one that failed."""
    processed, failed = await _told(backend, parent)
    values = {key: json.loads(value) for key, value in processed.items()}
    return {**dict.fromkeys(failed), **values}


async def failures(backend: Backend, parent: ActiveJob) -> dict[str, str]:
    """Returns by key why those children failed that do not fail their parent."""
    _, failed = await _told(backend, parent)
    return failed


async def _told(backend: Backend, parent: ActiveJob) -> tuple[dict[str, str], dict[str, str]]:
    """What the handler is told of its children: results and reasons of failures, by key."""
    processed, failed = await _ended(backend, parent)
    parent.children_ended = len(processed) + len(failed)
    return _by_key(backend, parent, processed), _by_key(backend, parent, failed)


def _by_key(backend: Backend, parent: ActiveJob, texts: Mapping[str, str]) -> dict[str, str]:
    keys = backend.keys[parent.queue]
    prefix = keys.base.removesuffix(f":{keys.queue}:")
    return by_key(ChildIds.of(keys, parent), prefix, texts)


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
    backend: Backend, parent: ActiveJob, job_id: str, child: ChildJob, carried: Mapping[str, Any]
) -> NewJob:
    data = encode_data(child.data, what=f"data of the child {child.result_key!r}")
    options = child.job_options()
    check_size(f"the child {child.result_key!r}", data, options)
    return NewJob(
        id=job_id,
        name=child.name,
        data=data,
        opts={child.failure_option: True, **carried, **options},
        parent=parent.id,
        parent_queue=backend.keys[parent.queue].base.removesuffix(":"),
    )
