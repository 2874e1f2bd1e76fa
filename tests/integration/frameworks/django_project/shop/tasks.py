"""Tasks of every kind: plain and async, with a context, with the database, and those that fail."""

import asyncio
import threading
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, connections
from tasks_api import TaskContext, task


class Trouble(Exception):
    """An exception of the application's own."""


@task
def add(a: int, b: int = 0) -> int:
    return a + b


@task
async def add_async(a: int, b: int = 0) -> int:
    await asyncio.sleep(0)
    return a + b


@task
def shapes(*args: Any, **kwargs: Any) -> Any:
    return {"args": args, "kwargs": kwargs, "bytes": b"text"}


@task(takes_context=True)
def told(context: TaskContext, word: str) -> list[Any]:
    result = context.task_result
    before = (context.attempt, str(result.status), result.task.name, len(result.worker_ids))
    result.refresh()
    return [word, *before, str(result.status), len(result.worker_ids)]


@task(takes_context=True)
async def told_async(context: TaskContext, word: str) -> list[Any]:
    return [word, context.attempt]


@task
def fail(message: str) -> None:
    raise Trouble(message)


@task
async def fail_async(message: str) -> None:
    raise Trouble(message)


@task
def fail_from_another() -> None:
    try:
        raise ValueError("the first: one")  # noqa: EM101, TRY003, TRY301
    except ValueError as error:
        raise KeyError("the second") from error  # noqa: EM101, TRY003


@task
def not_json() -> Any:
    return object()


@task
def leave() -> None:
    raise SystemExit(3)


@task(queue_name=f"{settings.QUEUE}-emails")
def send_email(to: str) -> str:
    return f"sent to {to}"


@task(backend="careful", takes_context=True)
def second_time_lucky(context: TaskContext) -> int:
    if context.attempt == 1:
        raise Trouble("the first time")  # noqa: EM101, TRY003
    return context.attempt


@task(timeout=0.2)
async def too_long() -> None:
    await asyncio.sleep(60)


@task
def in_database() -> list[Any]:
    """Leave a connection open in a thread of the pool, as a view does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        (one,) = cursor.fetchone()
    return [one, threading.current_thread().name, connection.connection is not None]


_seen: list[Any] = []


@task
async def in_database_async() -> list[Any]:
    """The ORM has a thread of the job's own, and its connection is closed when the job ends."""

    def ask() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        _seen.append(connections["default"])
        return threading.get_ident()

    return [await sync_to_async(ask)(), await sync_to_async(ask)()]


@task
def left_open() -> int:
    """How many connections of earlier jobs are still open."""
    return sum(wrapper.connection is not None for wrapper in _seen)
