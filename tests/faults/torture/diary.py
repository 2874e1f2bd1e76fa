"""What handlers did, in the order in which it happened, on a server that nobody does harm to."""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from redis import Redis

from convolab_worker.handlers.job.job import AwaitChildren

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convolab_worker import Job

_PAGE = 5000
How = Literal["returned", "raised", "asked for children", "cancelled"]


@dataclass(slots=True)
class Run:
    """One call of a handler: by which process, and how it ended if it did.

    ``start`` counts the times that the job was taken, by any worker, up to this one. Times are
    milliseconds since the epoch.
    """

    job_id: str
    pid: int
    start: int
    began: int
    ended: int | None = None
    how: How | None = None


class Diary:
    """A stream on ``url``: each run's beginning, and its end unless its process was killed."""

    def __init__(self, url: str, name: str) -> None:
        self._redis: Any = Redis.from_url(url, decode_responses=True)
        self._name = f"{name}:diary"
        self._numbers = itertools.count(1)

    @contextmanager
    def run(self, job: Job[Any]) -> Iterator[None]:
        """Note one run of a handler."""
        number = f"{os.getpid()}-{next(self._numbers)}"
        # A private matter of its reporter, which no handler needs.
        start = job._reporter._job.starts  # type: ignore[attr-defined]  # noqa: SLF001
        self._note(run=number, job=job.id, pid=os.getpid(), start=start)
        try:
            yield
        except AwaitChildren:
            self._note(run=number, how="asked for children")
            raise
        except Exception:
            self._note(run=number, how="raised")
            raise
        except BaseException:
            self._note(run=number, how="cancelled")
            raise
        self._note(run=number, how="returned")

    def _note(self, **fields: object) -> None:
        self._redis.xadd(self._name, fields)

    def runs(self) -> list[Run]:
        """All runs, in the order of their beginnings."""
        runs: dict[str, Run] = {}
        for at, entry in pages(self._redis, self._name):
            if "job" in entry:
                runs[entry["run"]] = Run(entry["job"], int(entry["pid"]), int(entry["start"]), at)
            else:
                run = runs[entry["run"]]
                run.ended, run.how = at, cast("How", entry["how"])
        return list(runs.values())

    def close(self) -> None:
        """Forget what was written."""
        self._redis.delete(self._name)
        self._redis.close()


def pages(redis: Any, stream: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Every entry of a stream with its time in milliseconds."""
    after = "-"
    while entries := redis.xrange(stream, after, "+", count=_PAGE):
        for identity, fields in entries:
            yield int(identity.partition("-")[0]), fields
        after = f"({entries[-1][0]}"
