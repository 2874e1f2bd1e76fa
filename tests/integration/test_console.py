"""The console's routes over real HTTP: what they answer, what that cost, who may act."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from aiohttp import ClientSession, web
from redis.asyncio import Redis
from structlog.testing import capture_logs

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Settings, Shown, Worker
from convolab_worker.errors import ConfigurationError, JobNotFound, UnrecoverableError
from convolab_worker.server.server import ConsoleServer, WakeServer, console_app
from tests.support.commandstats import counted_commands
from tests.support.failed_jobs import add_failed
from tests.support.serving import serving
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

Data = dict[str, Any]


async def read(session: ClientSession, path: str, **asked: str) -> Data:
    """What a look answers, which has to be 200."""
    async with session.get(f"/api/{path}", params=asked) as answer:
        assert answer.status == 200, await answer.text()
        found: Data = await answer.json()
        return found


async def act(session: ClientSession, **order: Any) -> tuple[int, Data]:
    """The status and the answer of an action."""
    async with session.post("/api/actions", json=order) as answer:
        return answer.status, await answer.json()


def failing() -> HandlerRegistry:
    """A handler that fails for good after a step, and two others that no test calls."""
    handlers = HandlerRegistry()

    @handlers.audio("speak", attempts=3)
    async def speak(job: Job[Data]) -> None:
        await job.step("speech", lambda: {"chars": 3})
        job.log.info("spoke", chars=3)
        msg = f"no voice for chapter {job.id}"
        raise UnrecoverableError(msg)

    @handlers.course("course")
    async def course(_job: Job[Data]) -> None: ...

    @handlers.dialogue("chapter")
    async def chapter(_job: Job[Data]) -> None: ...

    return handlers


@asynccontextmanager
async def console(settings: Settings) -> AsyncIterator[ClientSession]:
    """The console alone, without a worker."""
    async with (
        ConsoleServer(settings.replace(port=0)) as server,
        ClientSession(f"http://127.0.0.1:{server.port}") as session,
    ):
        yield session


async def test_a_page_of_fifty_jobs_costs_what_it_says_and_pages_have_each_job_once(
    make_settings: Callable[..., Settings], redis: Redis
) -> None:
    """Seven jobs end in each millisecond: the pages meet in the middle of one."""
    settings = make_settings()
    await add_failed(redis, settings, 120)
    async with console(settings) as session:
        await read(session, "queues")  # connects
        async with counted_commands(redis) as counted:
            first = page = await read(session, "jobs", state="failed")
        seen = [job["id"] for job in page["jobs"]]
        while page["after"] is not None:
            page = await read(session, "jobs", state="failed", after=page["after"])
            seen += [job["id"] for job in page["jobs"]]

    assert first["commands"] == counted.total == 52
    assert first["total"] == 120
    assert len(seen) == len(set(seen)) == 120
    assert seen[0] == "119"


async def test_waiting_jobs_come_in_pages_too(client: JobClient, redis: Redis) -> None:
    await client.enqueue_many([{"name": "speak", "job_id": f"j{n}"} for n in range(70)])
    async with console(client.settings) as session:
        await read(session, "queues")
        async with counted_commands(redis) as counted:
            page = await read(session, "jobs", state="waiting")
        rest = await read(session, "jobs", state="waiting", after=page["after"])

    ids = [job["id"] for job in page["jobs"] + rest["jobs"]]
    assert ids == [f"j{n}" for n in reversed(range(70))]
    assert page["commands"] == counted.total == 54


async def test_every_look_says_what_the_server_ran_for_it(
    make_settings: Callable[..., Settings], redis: Redis
) -> None:
    """Commands within scripts too; and none of a list is dearer than 60."""
    settings = make_settings()
    await add_failed(redis, settings, 70)
    async with JobClient(settings) as client:
        await client.enqueue_many([{"name": "speak", "job_id": f"j{n}"} for n in range(70)])
        await client.enqueue_many(
            [{"name": "speak", "job_id": f"d{n}", "delay": 900} for n in range(70)]
        )
        await client.schedule("nightly", "speak", {}, cron="0 3 * * *")
    looks: dict[str, dict[str, str]] = {
        "queues": {},
        "jobs": {"state": "any"},
        "jobs?state=delayed": {},
        "job": {"id": "7"},
        "job?id=j7": {},
        "payload": {"id": "d7"},
        "attempts": {"id": "7"},
        "matching": {"state": "waiting"},
        "matching?state=delayed": {"name": "speak"},
        "failures": {},
        "schedules": {},
    }
    async with console(settings) as session:
        for path, asked in looks.items():
            await read(session, path, **asked)  # connects, and sends scripts' texts
            async with counted_commands(redis) as counted:
                found = await read(session, path, **asked)
            assert found["commands"] == counted.total, path
            if path.startswith("jobs"):
                assert found["commands"] <= 60


async def test_a_search_looks_at_a_bounded_number_of_jobs(
    make_settings: Callable[..., Settings], redis: Redis
) -> None:
    settings = make_settings()
    await add_failed(redis, settings, 600)
    async with console(settings) as session:
        found = await read(session, "jobs", state="failed", text="HÉLLO 7")
        none = await read(session, "jobs", state="failed", text="nowhere")
        rest = await read(session, "jobs", state="failed", text="HÉLLO 7", after=none["after"])

    assert found["jobs"] == []  # it is not among the 500 newest of 600
    assert none["looked_at"] == 500
    assert none["commands"] <= 520
    assert "7" in {job["id"] for job in rest["jobs"]}


async def test_one_job_is_shown_whole(make_settings: Callable[..., Settings], redis: Redis) -> None:
    """Data, options, steps, logs, the stack with whose its frames are, and the right cost."""
    settings = make_settings(idle_min=600.0, idle_max=600.0)
    async with serving(failing(), settings) as (worker, client, session):
        job_id = await client.enqueue("speak", {"text": "日本語 🎧"}, job_id="a/b?c")
        await wait_until(lambda: _is(client, job_id, "failed"), what="the job's failure")
        await wait_until(lambda: worker.stats()["idle"]["until"], what="a wait")
        await read(session, "queues")
        job = (await read(session, "job", id="a/b?c"))["job"]
        async with counted_commands(redis) as counted:
            again = await read(session, "job", id="a/b?c")

    assert "日本語 🎧" in job["data"]["text"]
    assert job["state"] == "failed"
    assert job["reason"] == "no voice for chapter a/b?c"
    assert job["steps"] == {"speech": '{"chars":3}'}
    assert any("spoke" in row for row in job["logs"])
    (stack,) = job["stacks"]
    own = [part["text"] for part in stack if part["whose"] == "application"]
    assert "in speak" in own[-1]
    assert again["commands"] == counted.total


async def _is(client: JobClient, job_id: str, state: str) -> bool:
    return (await client.status(job_id)).state == state


async def test_a_course_is_shown_as_a_tree(
    make_settings: Callable[..., Settings],
) -> None:
    handlers = HandlerRegistry()
    gate = asyncio.Event()

    @handlers.course("course")
    async def course(job: Job[Data]) -> str:
        if not await job.children_results():
            await job.enqueue_children([Child("chapter", {"n": 1})])
        return "whole"

    @handlers.dialogue("chapter")
    async def chapter(_job: Job[Data]) -> str:
        await gate.wait()
        return "written"

    async with serving(handlers, make_settings()) as (_, client, session):
        await client.enqueue("course", job_id="c1")
        await wait_until(lambda: _is(client, "c1", "waiting-children"), what="its children")
        tree = (await read(session, "job", id="c1"))["job"]
        (child,) = tree["children"]
        below = (await read(session, "job", id=child["id"], queue=child["queue"]))["job"]
        gate.set()
        await client.result("c1", 10)
        ended = (await read(session, "job", id="c1"))["job"]

    assert (child["name"], child["state"]) == ("chapter", "active")
    assert [(parent["id"], parent["state"]) for parent in below["parents"]] == [
        ("c1", "waiting-children")
    ]
    assert [one["state"] for one in ended["children"]] == ["completed"]


async def test_failures_are_grouped_by_reason_and_a_group_is_retried_at_once(
    make_settings: Callable[..., Settings], redis: Redis
) -> None:
    settings = make_settings(console_actions="on")
    queue = await add_failed(redis, settings, 30)
    async with console(settings) as session:
        groups = (await read(session, "failures"))["groups"]
        status, done = await act(session, action="retry", queue=queue, ids=groups[0]["ids"])
        left = (await read(session, "failures"))["groups"]

    assert [len(group["ids"]) for group in groups] == [20, 10]
    assert (status, done["done"]) == (200, 20)
    assert [group["reason"] for group in left] == ["rate limited"]


async def test_an_action_on_all_that_match_says_how_many_and_costs_what_is_billed(
    make_settings: Callable[..., Settings], redis: Redis
) -> None:
    """All of a state, those of a name, and those with a text: the ids first, then the action."""
    settings = make_settings(console_actions="on")
    queue = await add_failed(redis, settings, 240)
    async with console(settings) as session:
        await read(session, "queues")
        async with counted_commands(redis) as counted:
            every = await read(session, "matching", state="failed")
        named = await read(session, "matching", state="failed", name="speak")
        other = await read(session, "matching", state="failed", name="whisper")
        limited = await read(session, "matching", state="failed", text="rate limited")
        order = {"action": "retry", "queue": queue, "state": "failed", "ids": limited["ids"]}
        await act(session, **{**order, "ids": ["0"]})  # the server knows the script now
        async with counted_commands(redis) as spent:
            _, done = await act(session, **order)
        _, again = await act(session, **order)

    assert every["commands"] == counted.total == 1
    assert (len(every["ids"]), len(named["ids"]), other["ids"]) == (240, 240, [])
    assert (named["commands"], limited["looked_at"]) == (241, 240)
    assert (len(limited["ids"]), done["done"], again["done"]) == (80, 79, 0)
    assert done["commands"] == pytest.approx(spent.total, rel=0.02)


@pytest.mark.parametrize("action", ["remove", "promote", "retry", "pause", "resume"])
async def test_an_actions_price_has_what_its_script_runs_inside_redis(
    action: str, client: JobClient, redis: Redis
) -> None:
    queue, state = client.settings.queues[0], "failed" if action == "retry" else "delayed"
    mark = "" if action == "retry" else "j"
    if action == "retry":
        await add_failed(redis, client.settings, 40)
    else:
        await client.enqueue_many(
            [{"name": "a", "job_id": f"j{n}", "delay": 900} for n in range(40)]
        )
    about = {} if action in {"pause", "resume"} else {"state": state}
    async with console(client.settings.replace(console_actions="on")) as session:
        await read(session, "queues")  # connects
        first = {"ids": [f"{mark}0"]} if about else {}
        await act(session, action=action, queue=queue, **about, **first)  # sends the script's text
        ids = {"ids": [f"{mark}{n}" for n in range(1, 40)]} if about else {}
        async with counted_commands(redis) as spent:
            _, done = await act(session, action=action, queue=queue, **about, **ids)

    assert done["done"] == (39 if about else 1)
    assert done["commands"] == pytest.approx(spent.total, rel=0.03, abs=1)


async def test_a_job_is_run_again_with_other_data(client: JobClient) -> None:
    """As a new job, with numbers as they were written."""
    queue = client.settings.queues[0]
    async with console(client.settings.replace(console_actions="on")) as session:
        status, done = await act(
            session,
            action="enqueue",
            queue=queue,
            name="speak",
            data={"chapter": 9007199254740991},
            options={"priority": 3, "attempts": 2},
        )
        refused, told = await act(
            session, action="enqueue", queue=queue, name="a", options={"priority": -1}
        )
        unsafe, _ = await act(session, action="enqueue", queue=queue, name="a", data=2**60)

    job = await client.status(done["id"])
    assert (status, job.name, job.data) == (200, "speak", {"chapter": 9007199254740991})
    assert (job.priority, job.max_attempts) == (3, 2)
    assert (refused, "priority" in told["error"], unsafe) == (400, True, 400)


async def test_the_times_of_a_jobs_attempts_are_read_from_its_queues_events(
    make_settings: Callable[..., Settings],
) -> None:
    handlers = HandlerRegistry()

    @handlers.audio("stutter", attempts=2)
    async def stutter(job: Job[Data]) -> None:
        if job.attempt == 1:
            msg = "lost for words"
            raise RuntimeError(msg)

    async with serving(handlers, make_settings()) as (_, client, session):
        job_id = await client.enqueue("stutter", attempts=2, backoff=0.01)
        await client.enqueue("stutter", attempts=1)
        await client.result(job_id, 10)
        await read(session, "queues")  # connects
        found = await read(session, "attempts", id=job_id)

    first, second = found["attempts"]
    assert (first["outcome"], second["outcome"]) == ("failed, tried again later", "completed")
    assert first["started_at"] <= first["ended_at"] <= second["started_at"] <= second["ended_at"]
    assert (found["complete"], found["commands"]) == (True, 2)


async def test_every_action_does_what_the_client_does_and_says_who_asked(client: JobClient) -> None:
    settings, queue = client.settings.replace(wake_token="secret"), client.settings.queues[0]
    await client.enqueue_many(
        [{"name": "a", "job_id": n, "delay": 900} for n in ("one", "two", "three")]
    )
    with capture_logs() as logs:
        async with console(settings) as session:
            session.headers["Authorization"] = "Bearer secret"
            assert (await act(session, action="pause", queue=queue))[0] == 200
            assert (await read(session, "queues"))["queues"][0]["paused"] is True
            assert (await act(session, action="resume", queue=queue))[0] == 200
            assert (await read(session, "queues"))["queues"][0]["paused"] is False
            for action, job_id in (("promote", "one"), ("remove", "two"), ("cancel", "three")):
                status, done = await act(session, action=action, queue=queue, ids=[job_id])
                assert (status, done["done"]) == (200, 1)
            assert (await act(session, action="retry", queue=queue, ids=["one"]))[0] == 409
            assert (await act(session, action="remove", queue=queue, ids=["two"]))[0] == 404

    assert [job.id async for job in client.jobs()] == ["one"]
    told = [line for line in logs if line["event"] == "console.action"]
    assert [(line["action"], line["status"]) for line in told] == [
        ("pause", 200),
        ("resume", 200),
        ("promote", 200),
        ("remove", 200),
        ("cancel", 200),
        ("retry", 409),
        ("remove", 404),
    ]
    assert {line["by"] for line in told} == {"token"}


@pytest.mark.parametrize("forget", [False, True])
async def test_a_retry_keeps_or_forgets_the_recorded_steps(
    forget: bool,  # noqa: FBT001
    make_settings: Callable[..., Settings],
) -> None:
    calls = 0
    handlers = HandlerRegistry()

    def call() -> int:
        nonlocal calls
        calls += 1
        return calls

    @handlers.audio("speak")
    async def speak(job: Job[Data]) -> int:
        number: int = await job.step("call", call)
        if job.starts == 1:
            msg = "once"
            raise UnrecoverableError(msg)
        return number

    settings = make_settings(console_actions="on")
    async with serving(handlers, settings) as (_, client, session):
        await client.enqueue("speak", job_id="j1")
        await wait_until(lambda: _is(client, "j1", "failed"), what="its failure")
        status, _ = await act(
            session, action="retry", queue=settings.queues[0], ids=["j1"], forget_steps=forget
        )
        assert status == 200
        assert await client.result("j1", 10) == (2 if forget else 1)


async def test_no_job_has_the_name_of_a_queues_own_key(client: JobClient, redis: Redis) -> None:
    """An action on ``meta`` would change or remove what the queue is made of."""
    queue, meta = client.settings.queues[0], f"{client.settings.prefix}:{client.settings.queues[0]}"
    await client.enqueue("a")
    await client.pause(queue)
    async with console(client.settings.replace(console_actions="on")) as session:
        for state in ({}, {"state": "failed"}, {"state": "unknown"}):
            for action in ("remove", "retry"):
                _, told = await act(session, action=action, queue=queue, ids=["meta"], **state)
                assert told.get("done", 0) == 0
    with pytest.raises(JobNotFound):
        await client.remove("meta", queue=queue)
    with pytest.raises(ConfigurationError, match="a queue has a key of that name"):
        await client.enqueue("a", job_id="meta")

    assert await redis.hget(f"{meta}:meta", "paused") is not None


async def test_it_is_read_only_without_a_token_or_the_option(client: JobClient) -> None:
    queue = client.settings.queues[0]
    await client.enqueue("a", job_id="j1")
    async with console(client.settings) as session:
        assert (await read(session, "console"))["acts"] is False
        for order in ({"action": "remove", "ids": ["j1"]}, {"action": "pause"}):
            assert (await act(session, queue=queue, **order))[0] == 403
        async with session.get("/api/actions") as answer:
            assert answer.status == 405

    assert (await client.status("j1")).state == "waiting"


async def test_another_sites_page_can_neither_act_nor_look(client: JobClient) -> None:
    """Foreign Origin and Host, what a form can send, and no token where one is asked for."""
    queue = client.settings.queues[0]
    order = f'{{"action": "pause", "queue": "{queue}"}}'
    json_type = {"Content-Type": "application/json"}
    async with console(client.settings.replace(console_actions="on")) as session:
        for headers, expected in (
            ({**json_type, "Origin": "https://evil.example"}, 403),
            ({**json_type, "Sec-Fetch-Site": "cross-site"}, 403),
            ({**json_type, "Host": "evil.example"}, 403),
            ({"Content-Type": "text/plain"}, 415),
        ):
            async with session.post("/api/actions", data=order, headers=headers) as answer:
                assert answer.status == expected
        async with session.get("/api/queues", headers={"Host": "evil.example"}) as answer:
            assert answer.status == 403
    async with console(client.settings.replace(wake_token="secret")) as session:
        for path in ("console", "queues", "jobs", "job", "payload", "failures", "schedules"):
            async with session.get(f"/api/{path}") as answer:
                assert answer.status == 401
        assert (await act(session, action="pause", queue=queue))[0] == 401

    assert (await client.queues())[0].paused is False


async def test_a_server_that_anybody_can_reach_asks_redis_for_nothing(
    make_settings: Callable[..., Settings],
) -> None:
    """What is in memory is shown; no job's data is, and a stranger spends no command."""
    settings = make_settings(port=0, console_actions="on")
    async with (
        WakeServer(Worker(failing(), settings), insecure=True) as server,
        ClientSession(f"http://127.0.0.1:{server.port}") as session,
    ):
        about = await read(session, "console")
        for path in ("queues", "jobs", "job?id=j", "payload?id=j", "failures", "schedules"):
            async with session.get(f"/api/{path}") as answer:
                assert answer.status == 403
        status, _ = await act(session, action="pause", queue=settings.queues[0])

    assert (about["live"], about["acts"], status) == (True, False, 403)


async def test_payloads_can_be_hidden(make_settings: Callable[..., Settings]) -> None:
    """Neither in a list, a job, a schedule, a download, nor by a search."""
    settings = make_settings(console_payloads="hidden")
    async with serving(failing(), settings) as (_, client, session):
        await client.enqueue("speak", {"text": "hunter2"}, job_id="j1")
        await client.schedule("nightly", "speak", {"text": "hunter2"}, every=3600)
        await wait_until(lambda: _is(client, "j1", "failed"), what="its failure")
        job = (await read(session, "job", id="j1"))["job"]
        texts = [
            str(await read(session, path, **asked))
            for path, asked in (
                ("job", {"id": "j1"}),
                ("jobs", {"state": "failed"}),
                ("schedules", {}),
            )
        ]
        assert (await read(session, "jobs", state="failed", text="hunter2"))["jobs"] == []
        by_reason = await read(session, "jobs", state="failed", text="for chapter j1")
        async with session.get("/api/payload?id=j1") as answer:
            assert answer.status == 400

    assert job["hidden"] is True
    assert [one["id"] for one in by_reason["jobs"]] == ["j1"]
    assert job["steps"] == {"speech": None}
    assert not any("hunter2" in text or "chars" in text for text in texts)


async def test_a_large_payload_is_cut_and_can_be_downloaded_whole(
    client: JobClient,
) -> None:
    await client.enqueue("a", {"text": "x" * 2_000_000}, job_id="j1")
    async with console(client.settings) as session:
        job = (await read(session, "job", id="j1"))["job"]
        whole = await read(session, "payload", id="j1")

    assert len(job["data"]["text"]) == 20_000
    assert job["data"]["size"] > 2_000_000
    assert len(whole["data"]["text"]) == 2_000_000


async def test_a_schedule_is_told_in_words_with_its_next_times_and_is_removed(
    client: JobClient,
) -> None:
    """In its zone, over the day when the clock is set; one that Node can't go on with is named."""
    queue = client.settings.queues[0]
    await client.schedule("nightly", "a", cron="30 2 * * 1-5", tz="Europe/Berlin")
    await client.schedule("often", "a", every=3600, limit=3)
    async with console(client.settings.replace(console_actions="on")) as session:
        found = (await read(session, "schedules"))["schedules"]
        status, done = await act(session, action="unschedule", queue=queue, schedule="nightly")
        left = (await read(session, "schedules"))["schedules"]

    nightly = next(one for one in found if one["id"] == "nightly")
    often = next(one for one in found if one["id"] == "often")
    assert nightly["words"] == "at 02:30 on Monday to Friday"
    zone = ZoneInfo("Europe/Berlin")
    moments = [datetime.fromtimestamp(at, zone) for at in nightly["next"]]
    assert [moment.strftime("%H:%M") for moment in moments] == ["02:30"] * 5
    assert len({moment.date() for moment in moments}) == 5
    assert [b - a for a, b in pairwise(often["next"])] == [3600.0]
    assert (status, done["done"], [one["id"] for one in left]) == (200, 1, ["often"])


async def test_a_queue_says_what_keeps_its_jobs_from_being_run(
    client: JobClient, redis: Redis
) -> None:
    """A pause, no worker, and the queue's own limits as Node writes them."""
    queue, prefix = client.settings.queues[0], client.settings.prefix
    await client.enqueue("a")
    await client.pause(queue)
    meta: dict[Any, Any] = {"concurrency": 4, "max": 10, "duration": 60_000}
    await redis.hset(f"{prefix}:{queue}:meta", mapping=meta)
    await redis.set(f"{prefix}:{queue}:limiter", 11, px=30_000)
    async with console(client.settings) as session:
        (row,) = (await read(session, "queues"))["queues"]

    assert row["problems"] == ["it is paused", "no worker listens, and 1 jobs wait"]
    assert (row["concurrency"], row["rate_limit"]) == (4, [10, 60.0])
    assert 0 < row["limited_for"] <= 30


async def test_fields_and_texts_are_redacted_wherever_they_are_shown(
    make_settings: Callable[..., Settings],
) -> None:
    """In lists, jobs, steps, logs, downloads, the stream, and not to be found by a search."""
    handlers = HandlerRegistry()

    @handlers.audio("speak")
    async def speak(job: Job[Data]) -> None:
        await job.progress({"apiKey": "hunter2", "pct": 20})
        await job.step("login", lambda: {"api_key": "hunter2"})
        job.log.info("tried hunter2")
        msg = f"refused hunter2 of {job.id}"
        raise UnrecoverableError(msg)

    @handlers.redact
    def without_password(shown: Shown) -> Any:
        if shown.name == "broken":
            raise KeyError
        return (
            shown.value.replace("hunter2", "***") if isinstance(shown.value, str) else shown.value
        )

    settings = make_settings(console_redact=("api-key",))
    async with serving(handlers, settings) as (_, client, session):
        data = {"user": {"API_KEY": "hunter2", "name": "Ida"}}
        await client.enqueue("speak", data, job_id="j1")
        await client.enqueue("broken", data, job_id="j2", delay=900)
        await wait_until(lambda: _is(client, "j1", "failed"), what="its failure")
        job = (await read(session, "job", id="j1"))["job"]
        broken = (await read(session, "job", id="j2"))["job"]
        texts = [
            str(await read(session, path, **asked))
            for path, asked in (
                ("job", {"id": "j1"}),
                ("jobs", {"state": "failed"}),
                ("payload", {"id": "j1"}),
                ("failures", {}),
            )
        ]
        found = await read(session, "jobs", state="failed", text="hunter2")
        async with session.get("/events") as stream:
            texts.append((await stream.content.readuntil(b"event: status")).decode())

    assert not any("hunter2" in text for text in texts)
    assert found["jobs"] == []
    assert json.loads(job["data"]["text"]) == {"user": {"API_KEY": "[not shown]", "name": "Ida"}}
    assert (job["reason"], job["redacted"]) == ("refused *** of j1", True)
    assert job["steps"] == {"login": '{"api_key": "[not shown]"}'}
    assert broken["data"]["text"] == '"[not shown]"'


async def test_handlers_and_schedules_are_listed(make_settings: Callable[..., Settings]) -> None:
    async with serving(failing(), make_settings()) as (_, client, session):
        await client.schedule("nightly", "course", cron="0 3 * * *", tz="Europe/Berlin")
        handlers = await read(session, "handlers")
        (schedule,) = (await read(session, "schedules"))["schedules"]

    assert [one["names"] for one in handlers["handlers"]] == [["chapter"], ["course"], ["speak"]]
    assert handlers["commands"] == 0
    assert [one["reachable"] for one in handlers["handlers"]] == [True, True, True]
    assert handlers["handlers"][2]["schema"]["type"] == "object"
    assert handlers["handlers"][2]["defaults"] == {"attempts": 3}
    assert (schedule["cron"], schedule["tz"]) == ("0 3 * * *", "Europe/Berlin")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("job?id=nowhere", 404),
        ("job?id=meta", 404),
        ("payload?id=failed", 404),
        ("attempts?id=meta", 404),
        ("job", 404),
        ("jobs?state=nonsense", 400),
        ("jobs?after=x", 400),
        ("jobs?after=0~1e999~99999999999", 400),
        ("jobs?after=7~7~7&state=waiting", 400),
        ("jobs?after=0~7~7&state=waiting", 200),
        ("jobs?after=0~-1~5&state=waiting", 200),
        ("jobs?after=6~7~7&state=any", 200),
        ("matching?state=any", 400),
        ("attempts?id=nowhere", 404),
        ("jobs?queue=a:b", 400),
        ("job?id=" + "x" * 20_000, 400),
        ("queues?find=all&find=none", 200),
        ("nothing", 404),
    ],
)
async def test_wrong_looks_are_answered_in_json(
    path: str, status: int, make_settings: Callable[..., Settings]
) -> None:
    async with (
        console(make_settings(prefix="looks")) as session,
        session.get(f"/api/{path}") as answer,
    ):
        assert answer.status == status
        assert isinstance(await answer.json(), dict)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"\xff", b"[" * 50_000, b'{"action": "flush", "queue": "q"}',
        b'{"action": "retry", "queue": "q"}', b'{"action": "retry", "queue": "q", "ids": [1]}',
        b'{"action": "pause", "queue": "q", "ids": ["1"]}', b'{"action": "pause", "queue": "a:b"}',
        b'{"action": "retry", "queue": "q", "ids": ["1"], "forget_steps": 1}',
        b'{"action": "retry", "queue": "q", "ids": ["1"], "state": 7}',
        b'{"action": "enqueue", "queue": "q", "data": {}}',
        b'{"action": "unschedule", "queue": "q"}',
        b'{"action": "enqueue", "queue": "q", "name": "n", "options": {"jobId": "1"}}',
        b'{"action": "enqueue", "queue": "q", "name": "n", "options": {"delay": "soon"}}',
    ],
)  # fmt: skip
async def test_wrong_actions_are_refused(
    body: bytes, make_settings: Callable[..., Settings]
) -> None:
    async with (
        console(make_settings(console_actions="on")) as session,
        session.post(
            "/api/actions", data=body, headers={"Content-Type": "application/json"}
        ) as answer,
    ):
        assert answer.status == 400
        assert "expected" in (await answer.json())["error"]


async def test_an_open_console_costs_no_command(
    make_settings: Callable[..., Settings], redis: Redis
) -> None:
    """The page, what it asks first, the handlers and the stream are all from memory."""
    settings = make_settings(idle_min=600.0, idle_max=600.0)
    async with serving(failing(), settings) as (worker, _, session):
        await wait_until(lambda: worker.stats()["idle"]["until"], what="a wait")
        async with counted_commands(redis) as counted:
            async with session.get("/") as answer:
                assert len(await answer.read()) < 150_000
            await read(session, "console")
            await read(session, "handlers")
            async with session.get("/events") as stream:
                assert (await stream.content.readline()).startswith(b"event:")

    assert counted.total == 0


async def test_the_command_serves_it_without_handlers_until_a_signal(
    server_url: str, queue_name: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "convolab_worker", "console", "--port", "0"),
        *("--redis-url", server_url, "--queue", queue_name, "--console-actions"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    line = (await asyncio.wait_for(process.stderr.readline(), 30)).decode()
    url = next(word for word in line.split() if word.startswith("http://"))
    async with ClientSession(url) as session:
        about = await read(session, "console")
        found = await read(session, "queues")
    os.kill(process.pid, signal.SIGINT)
    await process.communicate()

    assert (about["live"], about["acts"], about["queues"]) == (False, True, [queue_name])
    assert [queue["name"] for queue in found["queues"]] == [queue_name]
    assert process.returncode == 0


async def test_it_is_mounted_under_a_path_of_an_application(
    make_settings: Callable[..., Settings],
) -> None:
    app = web.Application()
    app.add_subapp("/ops/console", console_app(make_settings()))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/ops/console/") as page:
                assert "<title>" in await page.text()
            async with session.get("/ops/console/api/queues") as answer:
                assert answer.status == 200
    finally:
        await runner.cleanup()


async def test_ids_that_no_job_can_have_are_ids_of_no_job(
    make_settings: Callable[..., Settings], queue_name: str
) -> None:
    """A lone surrogate, as it comes in JSON, and a key of the queue's own."""
    settings = make_settings(console_actions="on")
    order = {"queue": queue_name, "ids": ["\ud800", "meta"], "state": "failed"}
    async with console(settings) as session:
        for action in ("retry", "remove"):
            body = json.dumps({**order, "action": action})
            headers = {"Content-Type": "application/json"}
            async with session.post("/api/actions", data=body, headers=headers) as answer:
                assert (answer.status, (await answer.json())["done"]) == (200, 0)
