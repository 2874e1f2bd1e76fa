"""Jobs that a test's code has enqueued, and the search for one of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convolab_worker.payloads.encode import encode_data

if TYPE_CHECKING:
    from collections.abc import Sequence

ANYTHING: Any = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueuedJob:
    """A job that was added; ``data`` is None if it has been removed since."""

    id: str
    name: str
    queue: str
    data: Any


def found_among(
    jobs: Sequence[EnqueuedJob], name: str, *, data: Any, queue: str | None
) -> EnqueuedJob:
    """Return the first job of that name, data and queue. Raises AssertionError without one."""
    wanted = data if data is ANYTHING else _as_read(data)
    for job in jobs:
        fits = job.name == name and (wanted is ANYTHING or job.data == wanted)
        if fits and queue in (None, job.queue):
            return job
    asked = "" if data is ANYTHING else f" with data {data!r}"
    where = "" if queue is None else f" on {queue}"
    lines = [f"\n  {job.name} on {job.queue}: {job.data!r}" for job in jobs]
    msg = f"no {name!r}{asked}{where} was enqueued; enqueued: {''.join(lines) or 'nothing'}"
    raise AssertionError(msg)


def _as_read(data: Any) -> Any:
    """Return data as it comes back from Redis; an object that compares itself (``ANY``) stays."""
    try:
        return json.loads(encode_data(data))
    except Exception:  # noqa: BLE001 - it is not JSON, and is compared as it is
        return data
