"""``on_commit``: jobs are added when a transaction commits, and only then.

Each library has a program of its own, since a client looks at what the process has imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.commands import start_python
from tests.support.server import ServerProcess

pytestmark = pytest.mark.asyncio

DJANGO = """
import json
import django
from django.conf import settings
in_memory = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
settings.configure(DATABASES={"default": in_memory})
django.setup()
from django.db import transaction
from convolab_worker import SyncJobClient

client = SyncJobClient(queues=("work",))
seen = {}

def waiting():
    return sorted(job.id for job in client.jobs("waiting"))

with transaction.atomic():
    job_id = client.enqueue("work", {"n": 1}, job_id="committed", on_commit=True)
    seen["returned"] = job_id
    with transaction.atomic():
        client.enqueue("work", job_id="in-a-savepoint", on_commit=True)
    try:
        with transaction.atomic():
            client.enqueue("work", job_id="in-one-that-was-undone", on_commit=True)
            raise ValueError
    except ValueError:
        pass
    client.enqueue_many([{"name": "work", "job_id": "of-many"}], on_commit=True)
    seen["before"] = waiting()
seen["after"] = waiting()
try:
    with transaction.atomic():
        client.enqueue("work", job_id="rolled-back", on_commit=True)
        raise ValueError
except ValueError:
    pass
client.enqueue("work", job_id="outside", on_commit=True)
seen["end"] = waiting()
print(json.dumps(seen))
"""

SQLALCHEMY = """
import asyncio, json
from sqlalchemy import Column, Integer, create_engine
from sqlalchemy.orm import Session, declarative_base, scoped_session, sessionmaker
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from convolab_worker import JobClient, SyncJobClient
from convolab_worker.errors import ConfigurationError

Base = declarative_base()

class Order(Base):
    __tablename__ = "orders"
    id = Column(Integer, primary_key=True)

client = SyncJobClient(queues=("work",))
engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
seen = {}

def waiting():
    return sorted(job.id for job in client.jobs("waiting"))

with Session(engine) as session:
    session.add(Order())
    client.enqueue("work", job_id="committed", on_commit=True)
    session.flush()
    with session.begin_nested():
        client.enqueue("work", job_id="in-a-savepoint", on_commit=True)
    undone = session.begin_nested()
    client.enqueue("work", job_id="in-one-that-was-undone", on_commit=True)
    undone.rollback()
    client.enqueue_many([{"name": "work", "job_id": "of-many"}], on_commit=True)
    seen["before"] = waiting()
    session.commit()
    seen["after"] = waiting()

    session.add(Order())
    client.enqueue("work", job_id="rolled-back", on_commit=True)
    session.rollback()
    session.commit()
    client.enqueue("work", job_id="by-the-session", on_commit=session)
    session.add(Order())
    session.commit()
    client.enqueue("work", job_id="begun-afterwards-and-undone", on_commit=session)
    session.add(Order())
    session.rollback()
    session.commit()
    session.add(Order())
    client.enqueue("work", job_id="never-committed", on_commit=True)

scoped = scoped_session(sessionmaker(engine))
client.enqueue("work", job_id="scoped", on_commit=scoped)
scoped.commit()
try:
    client.enqueue("work", on_commit=True)
except ConfigurationError as error:
    seen["outside"] = str(error)
try:
    client.enqueue("work", on_commit="yes")
except ConfigurationError as error:
    seen["wrong"] = str(error)

async def main():
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with JobClient(queues=("work",)) as client:
        async with AsyncSession(engine) as session, session.begin():
            session.add(Order())
            await session.flush()
            await client.enqueue("work", job_id="of-a-task", on_commit=session)
            await client.enqueue("work", job_id="of-a-task-too", on_commit=True)
            seen["async"] = [job.id async for job in client.jobs("waiting", name="work")][:1]
    await engine.dispose()

seen["end"] = waiting()
asyncio.run(main())
seen["async-end"] = waiting()

broken = SyncJobClient(queues=("work",), redis_url="redis://127.0.0.1:1")
with Session(engine) as session:
    session.add(Order())
    broken.enqueue("work", on_commit=True)
    try:
        session.commit()
    except Exception as error:
        seen["broken"] = type(error).__name__
    session.rollback()
    seen["orders"] = session.query(Order).count()
print(json.dumps(seen))
"""

NEITHER = """
from convolab_worker import SyncJobClient
from convolab_worker.errors import ConfigurationError
try:
    SyncJobClient().enqueue("work", on_commit=True)
except ConfigurationError as error:
    print(f'"{error}"')
"""


@pytest.fixture
def run(start_server: Callable[..., ServerProcess]) -> Callable[[str], Any]:
    """Run a program on a server of its own, and give what it prints as JSON."""

    async def run_program(text: str) -> Any:
        program = await start_python("-c", text, environ={"REDIS_URL": start_server().url})
        code, out, err = await program.ended(60)
        assert code == 0, err
        return json.loads(out)

    return run_program


COMMITTED = ["committed", "in-a-savepoint", "of-many"]


async def test_django(run: Callable[[str], Any]) -> None:
    """A savepoint that is undone takes its jobs along; outside, a job is added at once."""
    assert await run(DJANGO) == {
        "returned": "committed",
        "before": [],
        "after": COMMITTED,
        "end": [*COMMITTED, "outside"],
    }


async def test_sqlalchemy(run: Callable[[str], Any]) -> None:
    """Sessions that are found, given, scoped, and of asyncio; those that end otherwise."""
    seen = await run(SQLALCHEMY)

    assert (seen["before"], seen["after"]) == ([], COMMITTED)
    assert seen["end"] == sorted([*COMMITTED, "by-the-session", "scoped"])
    assert seen["async-end"] == sorted([*seen["end"], "of-a-task", "of-a-task-too"])
    assert seen["async"] == ["scoped"]
    assert "expected on_commit=SESSION" in seen["outside"]
    assert "expected True, or a session" in seen["wrong"]
    assert (seen["broken"], seen["orders"]) == ("RedisUnavailable", 3)


async def test_a_program_without_either_is_told_so(run: Callable[[str], Any]) -> None:
    assert "expected a program that uses Django or SQLAlchemy" in await run(NEITHER)
