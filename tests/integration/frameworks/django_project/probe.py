"""Uses the tasks as an application does, and prints what it saw as JSON."""

import asyncio
import json
import os
import pickle
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.test import override_settings
from django.utils import timezone
from shop import tasks
from tasks_api import (
    InvalidTask,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultMismatch,
    task,
)

from convolab_worker import SyncJobClient
from convolab_worker.integrations.django import BullMQBackend

SEEN: dict[str, Any] = {}
CLIENT = SyncJobClient(**settings.TASKS["default"]["OPTIONS"])


def done(result: TaskResult) -> TaskResult:
    """Wait until it has ended, as nothing of Django's Tasks does."""
    deadline = time.monotonic() + 20
    while not result.is_finished:
        assert time.monotonic() < deadline, result
        time.sleep(0.01)
        result.refresh()
    return result


def told(result: TaskResult) -> dict[str, Any]:
    """What a result says, as JSON."""
    return {
        "status": str(result.status),
        "value": result.return_value if str(result.status) == "SUCCESSFUL" else None,
        "errors": [error.exception_class_path for error in result.errors],
        "traceback": result.errors[-1].traceback if result.errors else None,
        "attempts": result.attempts,
        "workers": result.worker_ids,
        "times": [
            moment is not None
            for moment in (
                result.enqueued_at,
                result.started_at,
                result.last_attempted_at,
                result.finished_at,
            )
        ],
    }


def raised(function: Callable[[], Any]) -> str:
    """The type and text of what the function raises."""
    try:
        function()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return f"{type(error).__name__}: {error}"
    return "nothing"


def before_a_worker() -> None:
    """What is there with nobody to run it."""
    plain = tasks.add.enqueue(1, b=2)
    SEEN["enqueued"] = told(plain)
    SEEN["value of one that is not finished"] = raised(lambda: plain.return_value)
    read = tasks.add.get_result(str(plain.id))
    SEEN["read"] = [*told(read)["times"], read.args, read.kwargs, read.task == plain.task]
    SEEN["read of another task"] = raised(lambda: tasks.fail.get_result(plain.id))
    SEEN["mismatch"] = TaskResultMismatch.__name__
    SEEN["read of none"] = raised(lambda: tasks.add.get_result("none"))
    SEEN["none"] = TaskResultDoesNotExist.__name__
    SEEN["invalid"] = InvalidTask.__name__
    job = CLIENT.enqueue("no-task", {})
    SEEN["read of a job that is none"] = raised(lambda: tasks.add.get_result(job))
    CLIENT.remove(job)
    status = CLIENT.status(plain.id)
    SEEN["job"] = [status.name, status.data, status.queue, status.state]
    again = pickle.loads(pickle.dumps(plain.id))  # noqa: S301 - our own
    SEEN["pickled"] = [again == plain.id, tasks.add.get_result(again).id == plain.id]

    later = timezone.now() + timedelta(hours=1)
    delayed = tasks.add.using(run_after=later).enqueue(1)
    status = CLIENT.status(delayed.id)
    SEEN["delayed"] = [status.state, round((status.due_at or 0) - later.timestamp(), 1)]
    delayed.refresh()
    read = tasks.add.get_result(delayed.id)
    SEEN["delayed read"] = [
        str(delayed.status),
        abs(read.task.run_after - later).total_seconds() < 1,
    ]
    past = tasks.add.using(run_after=timezone.now() - timedelta(hours=1)).enqueue(7)
    SEEN["past"] = CLIENT.status(past.id).state
    CLIENT.remove([delayed.id, past.id])

    order = [-100, 0, 100, 50, -1]
    for priority in order:
        tasks.shapes.using(priority=priority, queue_name=f"{settings.QUEUE}-emails").enqueue(
            priority
        )
    listed = list(CLIENT.jobs("waiting", queue=f"{settings.QUEUE}-emails", oldest_first=True))
    prioritized = list(
        CLIENT.jobs("prioritized", queue=f"{settings.QUEUE}-emails", oldest_first=True)
    )
    SEEN["priorities"] = {job.data["args"][0]: job.priority for job in [*listed, *prioritized]}
    SEEN["priorities read"] = sorted(
        tasks.shapes.get_result(job.id).task.priority for job in [*listed, *prioritized]
    )
    CLIENT.remove([*listed, *prioritized])

    SEEN["refused"] = {
        "priority": raised(lambda: tasks.add.using(priority=101)),
        "queue": raised(lambda: tasks.add.using(queue_name="unknown")),
        "naive": raised(lambda: tasks.add.using(run_after=datetime(2030, 1, 1))),  # noqa: DTZ001
        "local": raised(local),
        "arguments": raised(lambda: tasks.add.enqueue(object())),
        "options": raised(wrong_options),
        "job options": raised(lambda: BullMQBackend("x", {"OPTIONS": {"attempts": 0}})),
        "queue names": raised(lambda: BullMQBackend("x", {"QUEUES": ["default", "a:b"]})),
    }
    SEEN["refused added"] = CLIENT.counts()
    with override_settings(TASKS={"default": {**nowhere()}}):
        SEEN["no redis"] = raised(lambda: tasks.add.enqueue(1)).partition(":")[0]


def local() -> None:
    @task
    def inner() -> None:
        """Can't be found by a worker."""


def wrong_options() -> None:
    try:
        BullMQBackend("x", {"OPTIONS": {"redis_uri": "redis://h"}})
    except ImproperlyConfigured as error:
        raise ValueError(str(error)) from None


def nowhere() -> dict[str, Any]:
    return {
        "BACKEND": "convolab_worker.integrations.django.BullMQBackend",
        "OPTIONS": {"redis_url": "redis://127.0.0.1:1"},
    }


def transactions() -> None:
    careful = tasks.add.using(backend="careful")
    with transaction.atomic():
        at_once = tasks.add.enqueue(1)
        pending = careful.enqueue(2)
        SEEN["in a transaction"] = [exists(at_once), exists(pending), pending.enqueued_at is None]
    SEEN["committed"] = [exists(pending), pending.enqueued_at is not None]
    try:
        with transaction.atomic():
            undone = careful.enqueue(3)
            raise ValueError  # noqa: TRY301
    except ValueError:
        SEEN["rolled back"] = exists(undone)
    SEEN["outside"] = exists(careful.enqueue(4))


def exists(result: TaskResult) -> bool:
    try:
        result.refresh()
    except TaskResultDoesNotExist:
        return False
    return True


def with_a_worker() -> None:
    results = {
        "plain": tasks.add.enqueue(1, b=2),
        "async": tasks.add_async.enqueue(1, b=2),
        "shapes": tasks.shapes.enqueue(1, (2, "é"), key={"a": None}),
        "context": tasks.told.enqueue("hello"),
        "async context": tasks.told_async.enqueue("hello"),
        "failed": tasks.fail.enqueue("not today: sorry\nat all"),
        "async failed": tasks.fail_async.enqueue("not today"),
        "failed from another": tasks.fail_from_another.enqueue(),
        "not json": tasks.not_json.enqueue(),
        "left": tasks.leave.enqueue(),
        "other queue": tasks.send_email.enqueue("a@b"),
        "retried": tasks.second_time_lucky.enqueue(),
        "retried in vain": tasks.fail.using(backend="careful").enqueue("never"),
        "too long": tasks.too_long.enqueue(),
        "database": tasks.in_database.enqueue(),
        "async database": tasks.in_database_async.enqueue(),
    }
    SEEN["ids"] = {what: str(result.id) for what, result in results.items()}
    SEEN["done"] = {what: told(done(result)) for what, result in results.items()}
    SEEN["done"]["left open"] = told(done(tasks.left_open.enqueue()))
    SEEN["class"] = results["failed"].errors[0].exception_class is tasks.Trouble
    SEEN["value of a failed one"] = raised(lambda: results["failed"].return_value)
    asyncio.run(with_a_loop())


async def with_a_loop() -> None:
    result = await tasks.add_async.aenqueue(20, b=3)
    SEEN["aenqueue"] = str(result.status)
    deadline = time.monotonic() + 20
    while not result.is_finished:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
        await result.arefresh()
    SEEN["arefresh"] = result.return_value
    SEEN["aget_result"] = (await tasks.add_async.aget_result(result.id)).return_value


def main() -> None:
    """Do the part that TEST_PROBE names."""
    parts = {"before": before_a_worker, "transactions": transactions, "with": with_a_worker}
    parts[os.environ["TEST_PROBE"]]()
    print(json.dumps(SEEN))  # noqa: T201
