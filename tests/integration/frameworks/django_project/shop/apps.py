"""Notes the signals of tasks, in a file that the test reads."""

import os
from typing import Any

from django.apps import AppConfig
from tasks_api import task_enqueued, task_finished, task_started


def note(kind: str, task_result: Any) -> None:
    path = os.environ.get("TEST_SIGNALS")
    if path is not None:
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 - one write, appended
            file.write(f"{kind} {task_result.id} {task_result.status} {task_result.attempts}\n")


def enqueued(sender: Any, task_result: Any, **_: Any) -> None:  # noqa: ARG001
    note("enqueued", task_result)


def started(sender: Any, task_result: Any, **_: Any) -> None:  # noqa: ARG001
    note("started", task_result)


def finished(sender: Any, task_result: Any, **_: Any) -> None:  # noqa: ARG001
    note("finished", task_result)
    raise RuntimeError("a receiver that fails")  # noqa: EM101, TRY003


class ShopConfig(AppConfig):  # type: ignore[misc]
    """Connects the receivers."""

    name = "shop"

    def ready(self) -> None:
        task_enqueued.connect(enqueued)
        task_started.connect(started)
        task_finished.connect(finished)
