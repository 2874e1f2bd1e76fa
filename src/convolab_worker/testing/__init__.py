"""Helpers for tests of handlers: one handler without Redis, or a worker on a private server.

pytest finds the fixtures ``convolab_server`` and ``convolab_worker`` by itself.
"""

from __future__ import annotations

from convolab_worker.testing.enqueued import EnqueuedJob
from convolab_worker.testing.fake_client import FakeJobClient
from convolab_worker.testing.fake_sync_client import FakeSyncJobClient
from convolab_worker.testing.single import HandlerRun, run_handler
from convolab_worker.testing.workers import (
    RunningWorker,
    assert_enqueued,
    drained,
    running_worker,
    worker_fixture,
)

__all__ = [
    "EnqueuedJob",
    "FakeJobClient",
    "FakeSyncJobClient",
    "HandlerRun",
    "RunningWorker",
    "assert_enqueued",
    "drained",
    "run_handler",
    "running_worker",
    "worker_fixture",
]
