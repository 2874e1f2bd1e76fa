"""SyncJobClient on a real server: threads, forks, event loops, lost replies, and its end."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
from redis import Redis

from convolab_worker import Deduplication, HandlerRegistry, Job, Settings, SyncJobClient, Worker
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import (
    ConfigurationError,
    JobFailed,
    JobNotFound,
    RedisRefused,
    RedisUnavailable,
    WrongState,
)
from tests.support.commands import start_python
from tests.support.proxy import TcpProxy
from tests.support.server import ServerProcess
from tests.support.service import says, service

Data = dict[str, Any]
MakeSettings = Callable[..., Settings]
ENOUGH = 8  # calls until plain connections are used


@pytest.fixture
def sync_client(make_settings: MakeSettings) -> Iterator[SyncJobClient]:
    """A client of the test's own queue."""
    with SyncJobClient(make_settings()) as client:
        yield client


@pytest.fixture
def blocking_redis(server_url: str) -> Iterator[Redis]:
    """The server, to look at."""
    with Redis.from_url(server_url, decode_responses=True) as redis:
        yield redis


def test_eight_threads_share_a_client(
    sync_client: SyncJobClient, blocking_redis: Redis, queue_name: str
) -> None:
    """Each job is added once, and each thread gets its own answers."""

    def add(thread: int) -> list[str]:
        return [
            sync_client.enqueue("work", {"n": number}, job_id=f"t{thread}-{number}")
            for number in range(50)
        ]

    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(add, range(8)))

    expected = [[f"t{thread}-{number}" for number in range(50)] for thread in range(8)]
    waiting: Any = blocking_redis.lrange(f"bull:{queue_name}:wait", 0, -1)
    assert ids == expected
    assert sorted(waiting) == sorted(itertools.chain(*expected))
    assert sync_client.counts()[queue_name]["waiting"] == 400


# What may give the interpreter lock away of all that an add calls. macOS has no other random bytes.
HANDS_OVER = {"poll", "select", "sleep", "acquire", "wait"}
if hasattr(os, "getrandom"):
    HANDS_OVER.add("urandom")


class HandOvers:
    """The calls in which a thread gives the interpreter lock away, by name.

    A socket with a time-out of Python's does so twice in each: it asks first whether it may go on.
    """

    def __init__(self) -> None:
        self.names: list[str] = []

    def see(self, _: FrameType, event: str, called: Any) -> None:
        """Look at a call, as ``sys.setprofile`` tells of it."""
        if event != "c_call":
            return
        on = getattr(called, "__self__", None)
        if isinstance(on, socket.socket):
            self.names += [called.__name__] * (1 if on.gettimeout() is None else 2)
        elif called.__name__ in HANDS_OVER:
            self.names.append(called.__name__)


def test_an_add_of_a_thread_gives_the_interpreter_lock_away_twice(
    sync_client: SyncJobClient,
) -> None:
    """To send and to read. Each time other threads go on first, which takes longer than Redis."""
    handed = HandOvers()

    def add() -> None:
        for _ in range(ENOUGH):
            sync_client.enqueue("work", {"n": 1})
        sys.setprofile(handed.see)
        try:
            sync_client.enqueue("work", {"n": 1})
        finally:
            sys.setprofile(None)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(add).result()

    assert handed.names == ["send", "recv"]


@pytest.mark.asyncio
async def test_a_service_adds_follows_and_controls_jobs(
    sync_client: SyncJobClient, make_settings: MakeSettings
) -> None:
    """From threads, beside a worker that runs; and from the thread of an event loop itself."""
    handlers = HandlerRegistry()

    @handlers.audio("speak")
    async def speak(job: Job[Data]) -> int:
        await job.progress(50)
        if job.data["n"] < 0:
            msg = "no voice"
            raise ValueError(msg)
        return int(job.data["n"])

    def serve() -> None:
        ids = sync_client.enqueue_many([{"name": "speak", "data": {"n": n}} for n in range(3)])
        assert [sync_client.result(job_id, timeout=20) for job_id in ids] == [0, 1, 2]
        events = list(sync_client.watch(sync_client.enqueue("speak", {"n": 7})))
        assert (events[-1].event, events[-1].data) == ("completed", 7)
        bad = sync_client.enqueue("speak", {"n": -1})
        with pytest.raises(JobFailed, match="no voice"):
            sync_client.result(bad, timeout=20)
        with pytest.raises(JobNotFound):
            sync_client.status("nowhere")
        with pytest.raises(TimeoutError):
            sync_client.result(sync_client.enqueue("speak", {"n": 1}, delay=60), timeout=0.05)

    async with Worker(handlers, make_settings()):
        await asyncio.to_thread(serve)

    assert {job.state for job in sync_client.jobs("failed")} == {"failed"}
    assert sync_client.retry(sync_client.jobs("failed")) == 1
    (later,) = sync_client.jobs("delayed")
    with pytest.raises(WrongState):
        sync_client.retry(later.id)
    assert sync_client.promote([later.id]) == 1
    sync_client.pause()
    assert sync_client.queues()[0].paused
    first = next(sync_client.jobs("completed", name="speak"))
    assert sync_client.remove(first) == 1
    sync_client.schedule("nightly", "speak", every=3600)
    assert [schedule.id for schedule in sync_client.schedules()] == ["nightly"]
    assert sync_client.unschedule("nightly")


@pytest.mark.parametrize("calls_before", [0, ENOUGH], ids=["ordinary", "plain-socket"])
def test_a_job_that_was_there_says_so(sync_client: SyncJobClient, calls_before: int) -> None:
    for _ in range(calls_before):
        sync_client.enqueue("work")

    first = sync_client.enqueue("work", job_id="known", delay=60)
    again = sync_client.enqueue("work", job_id="known")

    assert (first.existed, first.state) == (False, None)
    assert (again, again.existed, again.state) == ("known", True, "delayed")


@pytest.mark.parametrize("calls_before", [0, ENOUGH], ids=["at first", "later"])
def test_a_job_that_is_deduplicated_says_so(sync_client: SyncJobClient, calls_before: int) -> None:
    for _ in range(calls_before):
        sync_client.enqueue("other")
    first, again = [
        sync_client.enqueue("work", deduplication=Deduplication("one")) for _ in range(2)
    ]

    assert (first.existed, again.existed) == (False, True)
    assert again == first


def test_a_lost_reply_adds_no_job_twice(
    make_settings: MakeSettings, server: EmbeddedServer, queue_name: str, blocking_redis: Redis
) -> None:
    """A plain connection that fails leaves the job to the ordinary way."""
    with (
        TcpProxy(server.port) as proxy,
        SyncJobClient(make_settings(redis_url=proxy.url)) as client,
    ):
        for _ in range(ENOUGH):
            client.enqueue("work")
        lost = proxy.swallow_replies(matching=b"the-mark", cut=True)
        job_id = client.enqueue("work", {"mark": "the-mark"}, job_id="once")
        assert lost.done.is_set()

    waiting: Any = blocking_redis.lrange(f"bull:{queue_name}:wait", 0, -1)
    assert waiting.count("once") == 1
    assert not job_id.existed


@pytest.mark.parametrize("calls_before", [0, ENOUGH], ids=["ordinary", "plain-socket"])
def test_what_the_server_refuses_is_an_error(
    sync_client: SyncJobClient, blocking_redis: Redis, queue_name: str, calls_before: int
) -> None:
    """A job whose adding broke off half-way is not taken for one that was added."""
    for _ in range(calls_before):
        sync_client.enqueue("work")
    blocking_redis.delete(f"bull:{queue_name}:wait")
    blocking_redis.set(f"bull:{queue_name}:wait", "no list")

    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        sync_client.enqueue("work")


def test_scripts_that_the_server_has_forgotten_are_sent_again(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server()
    with SyncJobClient(redis_url=server.url, queues=("work",)) as client:
        for _ in range(ENOUGH):
            client.enqueue("work")
        with Redis.from_url(server.url) as redis:
            redis.script_flush()

        client.enqueue("work")

        assert client.counts()["work"]["waiting"] == ENOUGH + 1


def test_a_server_that_restarts_is_found_again(start_server: Callable[..., ServerProcess]) -> None:
    """Connections that died in the meantime cost nobody an error."""
    server = start_server(durable=True)
    with SyncJobClient(redis_url=server.url, queues=("work",)) as client:
        for _ in range(ENOUGH):
            client.enqueue("work")
        server.kill()
        with pytest.raises(RedisUnavailable):
            client.enqueue("work")
        server.start()

        client.enqueue("work")
        assert client.counts()["work"]["waiting"] >= 1


def test_errors_are_those_of_job_client(make_settings: MakeSettings) -> None:
    with SyncJobClient(make_settings(redis_url="redis://127.0.0.1:1")) as client:
        with pytest.raises(RedisUnavailable, match="can't be reached"):
            client.enqueue("work")
        with pytest.raises(ConfigurationError, match="delay=-1"):
            client.enqueue("work", delay=-1)
    with pytest.raises(ConfigurationError, match="redis_url"):
        SyncJobClient(redis_url="http://x")


def test_a_closed_client_ends_calls_and_connects_again(sync_client: SyncJobClient) -> None:
    job_id = sync_client.enqueue("work")
    told: list[BaseException] = []

    def wait() -> None:
        with pytest.raises(RedisUnavailable, match="closed|not connected") as refused:
            sync_client.result(job_id)
        told.append(refused.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not any(thread.name == "convolab-client" for thread in threading.enumerate()):
        time.sleep(0.001)
    sync_client.status(job_id)
    sync_client.close()
    waiting.join(20)

    assert len(told) == 1
    assert sync_client.status(job_id).state == "waiting"


FORKS = """
import os, sys, threading
from convolab_worker import SyncJobClient

client = SyncJobClient(queues=("work",))
for number in range({before}):
    client.enqueue("work", job_id=f"before-{{number}}")
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        for number in range(20):
            client.enqueue("work", job_id=f"child-{{child}}-{{number}}")
        sys.exit(0)
    children.append(pid)
for number in range(20):
    client.enqueue("work", job_id=f"parent-{{number}}")
codes = [os.waitpid(pid, 0)[1] for pid in children]
print(codes, client.counts()["work"]["waiting"], client.status("child-2-19").state)
"""


@pytest.mark.asyncio
@pytest.mark.parametrize("before", [0, 20], ids=["unused", "used"])
async def test_it_goes_on_in_forks(start_server: Callable[..., ServerProcess], before: int) -> None:
    """Whether it was used before or not, in every process, each of which closes its own at exit."""
    program = await start_python(
        *("-W", "ignore::DeprecationWarning", "-c", FORKS.format(before=before)),
        environ={"REDIS_URL": start_server().url},
    )

    code, out, err = await program.ended()

    assert (code, out, err) == (0, f"[0, 0, 0] {before + 80} waiting\n", "")


@pytest.mark.asyncio
async def test_a_program_that_ends_without_closing_has_woken_the_service(
    server_url: str, queue_name: str
) -> None:
    """The wake of the last job leaves before the process does."""
    code = f"""
from convolab_worker import SyncJobClient
client = SyncJobClient(queues=("{queue_name}",))
client.enqueue("work")
"""
    async with service(says()) as there:
        program = await start_python(
            *("-W", "error", "-c", code),
            environ={"REDIS_URL": server_url, "CONVOLAB_WAKE_URL": there.url},
        )
        assert await program.ended() == (0, "", "")
        await asyncio.wait_for(there.asked(1), 5)


OUTLASTS = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from convolab_worker import SyncJobClient

client = SyncJobClient(queues=("work",))

def work(number):
    for _ in range(10):
        client.enqueue("work")
        time.sleep(0.02)

client.enqueue("work")
for number in range(3):
    threading.Thread(target=work, args=(number,)).start()
pool = ThreadPoolExecutor(2)
for number in range(2):
    pool.submit(work, number).add_done_callback(lambda future: future.result())
"""


@pytest.mark.asyncio
async def test_threads_that_outlast_the_main_one_go_on_with_it(
    start_server: Callable[..., ServerProcess],
) -> None:
    """It is closed when the last of them has ended."""
    server = start_server()
    program = await start_python(
        *("-W", "error", "-c", OUTLASTS), environ={"REDIS_URL": server.url}
    )

    assert await program.ended() == (0, "", "")
    with SyncJobClient(redis_url=server.url, queues=("work",)) as client:
        assert client.counts()["work"]["waiting"] == 51


def test_ctrl_c_ends_a_wait(sync_client: SyncJobClient) -> None:
    """The call that was interrupted is cancelled, and the next one is answered."""
    job_id = sync_client.enqueue("work")

    def wait_interrupted() -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        sync_client.result(job_id)

    with pytest.raises(KeyboardInterrupt):
        wait_interrupted()

    assert sync_client.status(job_id).state == "waiting"
