"""FakeJobClient for code that takes a SyncJobClient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.client.adding.transactions import after_commit
from convolab_worker.client.sync.sync_client import SyncJobClient
from convolab_worker.testing.enqueued import ANYTHING, EnqueuedJob
from convolab_worker.testing.fake_client import FakeJobClient

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from convolab_worker.bullmq.jobs.job_id import JobId
    from convolab_worker.client.adding.enqueue import Addition
    from convolab_worker.settings import Settings


class FakeSyncJobClient(SyncJobClient):
    """The same for code that takes a SyncJobClient; ``fake`` is the FakeJobClient behind it."""

    def __init__(self, settings: Settings | None = None, **options: Any) -> None:
        self.fake = FakeJobClient(settings, **options)
        super().__init__(self.fake.settings)

    @property
    def enqueued(self) -> list[EnqueuedJob]:
        """Every job that was added, in order."""
        return self.fake.enqueued

    def assert_enqueued(
        self, name: str, *, data: Any = ANYTHING, queue: str | None = None
    ) -> EnqueuedJob:
        """Return the first job of that name, data and queue. Raises AssertionError without one."""
        return self.fake.assert_enqueued(name, data=data, queue=queue)

    def complete(self, job_id: str, result: Any = None, *, queue: str | None = None) -> None:
        """Let the job have ended with that result. Raises JobNotFound."""
        self.fake.complete(job_id, result, queue=queue)

    def fail(self, job_id: str, reason: str, *, queue: str | None = None) -> None:
        """Let the job have failed for good with that reason. Raises JobNotFound."""
        self.fake.fail(job_id, reason, queue=queue)

    def _current(self) -> Any:
        return _InThisThread(self.fake)


class _InThisThread:
    """Runs the coroutines of a FakeJobClient, which wait for nothing."""

    def __init__(self, client: FakeJobClient) -> None:
        self.client = client

    def add(self, name: Any, data: Any, options: dict[str, Any]) -> Any:
        on_commit = options.pop("on_commit", None)
        new = self.client._addition(name, data, options)
        return self._stored([new], on_commit)[0]

    def add_many(self, jobs: Any, data: Any, options: dict[str, Any]) -> Any:
        on_commit = options.pop("on_commit", None)
        return self._stored(self.run(self.client._additions(jobs, data, options)), on_commit)

    def _stored(self, jobs: list[Addition], on_commit: Any) -> list[JobId[Any]]:
        def store() -> list[JobId[Any]]:
            return [self.client._store(new, tells_state=len(jobs) == 1) for new in jobs]

        if on_commit and after_commit(on_commit, store):
            return [new.job_id_to_be() for new in jobs]
        return store()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        while True:
            try:
                coroutine.send(None)
            except StopIteration as end:
                return end.value
