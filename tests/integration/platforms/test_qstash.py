"""Wakes that QStash sends: signed, and repeated until the work is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job, Settings
from convolab_worker.errors import ConfigurationError
from convolab_worker.server.gate.auth import authorization
from tests.support.serving import serving
from tests.support.task_queues import Message, QStash, qstash_signature

pytestmark = pytest.mark.asyncio

URL = "https://worker.example.com/wake"
KEYS = {"wake_signing_key": "sig_current", "wake_next_signing_key": "sig_next"}


@pytest.fixture
def handlers() -> HandlerRegistry:
    registry = HandlerRegistry()

    @registry.audio("work")
    async def work(job: Job[dict[str, Any]]) -> None:
        await asyncio.sleep(job.data["seconds"])

    return registry


async def test_a_message_is_repeated_until_the_work_is_done(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """A hold that is too short is 503; QStash comes back after its Retry-After, not in 12 s."""
    settings = make_settings(
        wake_url=URL, wake_mode="held", shutdown_grace=0.2, concurrency=2, **KEYS
    )
    query = "?hold=1&retry=on"
    async with (
        serving(handlers, settings) as (_, client, session),
        QStash("sig_next", signs_for=URL + query) as qstash,
    ):
        ids = [await client.enqueue("work", {"seconds": 0.4}) for _ in range(6)]
        async with session.get("/health") as answer:
            address = answer.url.with_path("/wake")
        message = Message(url=f"{address}{query}", at=0.0, body=b'{"by": "qstash"}')
        async with asyncio.timeout(20):
            qstash.add(message)
            await qstash.delivered()
        states = {(await client.status(job_id)).state for job_id in ids}

    assert states == {"completed"}
    assert message.statuses[-1] == 200
    assert set(message.statuses[:-1]) == {503}


async def test_a_signature_opens_wake_alone_and_only_with_its_body(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """Everything else is 401 with a reason, and a line in the log without the signature."""
    settings = make_settings(wake_url="https://worker.example.com", **KEYS)
    right = qstash_signature("sig_current", URL, b"body")
    with capture_logs() as logs:
        async with serving(handlers, settings) as (_, _, session):

            async def status(path: str, token: str, body: bytes) -> tuple[int, str]:
                # aiohttp 3.10 may close the connection of a request that was refused unread.
                headers = {"Upstash-Signature": token, "Connection": "close"}
                async with session.post(path, data=body, headers=headers) as answer:
                    return answer.status, (await answer.json()).get("error", "")

            passed = await status("/wake", right, b"body")
            other_body = await status("/wake", right, b"other")
            other_query = await status("/wake?hold=9", right, b"body")
            expired = await status(
                "/wake", qstash_signature("sig_current", URL, claims={"exp": 1}), b""
            )
            async with session.get("/metrics", headers={"Upstash-Signature": right}) as metrics:
                elsewhere = metrics.status
            async with session.post("/wake") as unsigned:
                without = unsigned.status

    assert passed == (202, "")
    assert other_body == (401, "Upstash-Signature: it was made for another body")
    assert other_query[0] == 401
    assert expired == (401, "Upstash-Signature: it has expired")
    assert (elsewhere, without) == (401, 401)
    refusals = [line for line in logs if line["event"] == "server.signature_refused"]
    assert refusals[0]["reason"] == "it was made for another body"
    assert right not in str(logs)


async def test_a_body_without_end_is_not_read_for_a_wrong_signature(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """The claims are compared first; a right one has the limits of every body."""
    settings = make_settings(wake_url=URL, **KEYS)
    large = b"x" * 70_000
    async with serving(handlers, settings) as (_, _, session):
        statuses = []
        for key in ("another", "sig_current"):
            headers = {"Upstash-Signature": qstash_signature(key, URL, large)}
            async with session.post("/wake", data=large, headers=headers) as answer:
                statuses.append(answer.status)

    assert statuses == [401, 413]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"wake_signing_key": "sig_1"}, "expected CONVOLAB_WAKE_URL as well"),
        ({"wake_next_signing_key": "sig_2"}, "expected CONVOLAB_WAKE_SIGNING_KEY as well"),
    ],
)
async def test_half_of_the_settings_is_refused(given: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        authorization(Settings(**given))  # type: ignore[arg-type]
