"""Every route of the console with every parameter, and orders that are almost right."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession
from redis.asyncio import Redis
from yarl import URL

from convolab_worker import JobClient, Settings
from convolab_worker.server import ConsoleServer
from tests.support.failed_jobs import add_failed

pytestmark = pytest.mark.asyncio

ROUTES = (
    "console", "handlers", "queues", "jobs", "job", "payload", "failures", "schedules",
    "attempts", "matching", "actions", "nothing",
)  # fmt: skip
PARAMETERS = ("queue", "state", "id", "after", "text", "name", "find", "limit")
NASTY = (
    "", " ", "0", "-1", "any", "failed", "waiting", "active", "wait", "paused", "nonsense", "all",
    "a:b", "../..", "%00", "\x00", "\n", "\r\nX: y", "'\";--", "{}", "[]", "null", "é" * 100,
    "🎧", "\u202e", "\ufffd", "x" * 999, "x" * 9_000, "0~+inf~0", "0~1e400~1", "0~-1~999999999",
    "6~7~7", "9~9~9", "0~nan~0", "1e999", "9" * 400, "*", "?", "(a+)+$", "\\", "/.*/",
)  # fmt: skip
FINE = {200, 400, 404, 405, 409, 413, 415, 403}
MOST_COMMANDS = 1_100  # a look has a bound, whatever it is asked for


def look(chance: random.Random, ids: list[str]) -> str:
    """A path with parameters, some of them fitting."""
    route = chance.choice(ROUTES)
    names = chance.sample(PARAMETERS, chance.randrange(len(PARAMETERS)))
    values = [chance.choice(ids) if chance.random() < 0.2 else chance.choice(NASTY) for _ in names]
    if chance.random() < 0.1 and names:
        names, values = [*names, names[0]], [*values, chance.choice(NASTY)]
    query = "&".join(f"{name}={quote(value)}" for name, value in zip(names, values, strict=True))
    return f"/api/{route}?{query}"


def order(chance: random.Random, queue: str, ids: list[str]) -> bytes:
    """The body of an action in which one thing or more is odd."""
    odd: list[Any] = [
        None, True, 0, -1, 1e308, "", "nonsense", [], {}, [[]], {"a": 1}, "x" * 5_000, *NASTY[:20]
    ]  # fmt: skip
    given: dict[str, Any] = {
        "action": chance.choice(
            ["retry", "remove", "promote", "cancel", "pause", "resume", "enqueue", "unschedule"]
        ),
        "queue": queue,
        "ids": chance.sample(ids, chance.randrange(4)),
        "state": chance.choice(["failed", "delayed", "waiting", None]),
        "name": chance.choice(["", "speak"]),
        "schedule": chance.choice([None, "nightly"]),
        "options": chance.choice([{}, {"delay": 900}]),
        "forget_steps": chance.random() < 0.5,
    }
    for key in chance.sample([*given], chance.randrange(4)):
        given[key] = chance.choice(odd)
    body = json.dumps(given).encode()
    if chance.random() < 0.1:
        at = chance.randrange(len(body))
        body = body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
    return body


@pytest.mark.parametrize("requests", [400, pytest.param(20_000, marks=pytest.mark.long)])
async def test_nothing_that_is_asked_for_breaks_the_console(
    requests: int, make_settings: Callable[..., Settings], redis: Redis
) -> None:
    """Each answer is JSON with a status of the client's kind, and its cost is bounded."""
    chance = random.Random(21)
    settings = make_settings(console_actions="on", port=0, wake_rate=1_000_000)
    queue = await add_failed(redis, settings, 30)
    async with JobClient(settings) as client:
        await client.enqueue("speak", {"a": 1}, job_id="later-1")
        await client.enqueue("speak", {"a": 1}, job_id="later-2", delay=900)
        await client.schedule("nightly", "speak", {}, cron="0 3 * * *")
    ids = [*map(str, range(30)), "later-1", "later-2", "gone", "meta", "failed"]
    seen: Counter[tuple[str, int]] = Counter()
    async with (
        ConsoleServer(settings) as server,
        ClientSession() as session,
    ):
        for number in range(requests):
            acts = number % 3 == 0
            path = "/api/actions" if acts else look(chance, ids)
            url = URL(f"http://127.0.0.1:{server.port}{path}", encoded=True)
            body = order(chance, queue, ids) if acts else None
            headers = {"Content-Type": "application/json"} if acts else {}
            method = "POST" if acts else "GET"
            async with session.request(method, url, data=body, headers=headers) as answer:
                told = await answer.json()
                seen[method, answer.status] += 1
                assert answer.status in FINE, (method, path, body, told)
                assert answer.status == 200 or told["error"], (path, body)
                assert told.get("commands", 0) <= MOST_COMMANDS, (path, body)

    assert {("GET", 200), ("GET", 400), ("GET", 404), ("POST", 200), ("POST", 400)} <= {*seen}
