"""The Lambda function under AWS's own runtime client; a stand-in for its API behaves as documented.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker import JobClient, Settings
from tests.support.lambda_runtime import RuntimeApi
from tests.support.task_queues import qstash_signature

pytestmark = pytest.mark.asyncio

FUNCTION = """
import asyncio
from convolab_worker import HandlerRegistry
from convolab_worker.integrations.aws_lambda import lambda_handler

handlers = HandlerRegistry()

@handlers.audio("work")
async def work(job):
    await asyncio.sleep(job.data.get("seconds", 0))

handler = lambda_handler(handlers, reserve=0.5, shutdown_grace=1.0)
"""
URL_EVENT = {"requestContext": {"http": {"method": "POST"}}, "headers": {}}


@pytest_asyncio.fixture
async def function(tmp_path: Path, make_settings: Any) -> AsyncIterator[RuntimeApi]:
    """The function in one environment."""
    settings: Settings = make_settings()
    (tmp_path / "app.py").write_text(FUNCTION)
    api = RuntimeApi()
    async with api.serve() as address:
        environ = {
            **os.environ,
            "AWS_LAMBDA_RUNTIME_API": address,
            "CONVOLAB_QUEUES": settings.queues[0],
            "CONVOLAB_WAKE_SIGNING_KEY": "sig_1",
            "CONVOLAB_WAKE_TOKEN": "secret",
            "CONVOLAB_WAKE_URL": "https://x.lambda-url.eu-west-1.on.aws/wake",
            "PYTHONPATH": str(tmp_path),
            "REDIS_URL": settings.redis_url,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "awslambdaric", "app.handler", env=environ, cwd=tmp_path
        )
        try:
            yield api
        finally:
            process.kill()
            await process.wait()


async def test_an_invocation_is_a_drain_and_the_next_one_has_its_connections(
    function: RuntimeApi, make_settings: Any
) -> None:
    """What waits is run; between invocations nothing is, and no connection is made anew."""
    async with (
        JobClient(make_settings()) as client,
        Redis.from_url(make_settings().redis_url) as redis,
    ):
        first = await client.enqueue("work")
        answer = await function.invoke({"source": "aws.events"})
        made = (await redis.info("stats"))["total_connections_received"]
        second = await client.enqueue("work")
        between = (await client.status(second)).state
        again = await function.invoke({})
        made_since = (await redis.info("stats"))["total_connections_received"] - made

        assert (await client.status(first)).state == "completed"
        assert (await client.status(second)).state == "completed"
    assert answer == {
        "status": "drained", "processed": 1, "failed": 0, "remaining": 0, "next_due_at": None
    }  # fmt: skip
    assert (between, again["processed"], made_since) == ("waiting", 1, 0)


async def test_a_job_that_does_not_end_in_time_goes_back(
    function: RuntimeApi, make_settings: Any
) -> None:
    """The answer comes before Lambda's time-out, and tells a caller that repeats to come back."""
    async with JobClient(make_settings()) as client:
        long = await client.enqueue("work", {"seconds": 30})
        event = {**URL_EVENT, "headers": {"Authorization": "bearer secret"}}  # in any case

        answer = await function.invoke(event, seconds=4.0)

        status = await client.status(long)
    assert (answer["statusCode"], answer["headers"]["retry-after"]) == (503, "1")
    assert json.loads(answer["body"])["remaining"] == 1
    assert (status.state, status.attempts_made) == ("waiting", 0)


async def test_a_stranger_at_the_function_url_runs_nothing(
    function: RuntimeApi, make_settings: Any
) -> None:
    """Without the token, or with another, the answer is 401."""
    async with JobClient(make_settings()) as client:
        waiting = await client.enqueue("work")
        answers = [
            await function.invoke({**URL_EVENT, "headers": headers})
            for headers in ({}, {"authorization": "Bearer another"}, None)
        ]

        assert [answer["statusCode"] for answer in answers] == [401, 401, 401]
        assert (await client.status(waiting)).state == "waiting"


async def test_qstash_runs_what_is_there_and_another_body_runs_nothing(
    function: RuntimeApi, make_settings: Any
) -> None:
    """The function URL passes a body on in base64."""
    token = qstash_signature("sig_1", "https://x.lambda-url.eu-west-1.on.aws/wake?a=1", b"{}")
    event = {
        **URL_EVENT, "headers": {"Upstash-Signature": token}, "rawQueryString": "a=1",
        "isBase64Encoded": True,
    }  # fmt: skip
    async with JobClient(make_settings()) as client:
        await client.enqueue("work")
        refused = await function.invoke({**event, "body": "e30g"})
        answer = await function.invoke({**event, "body": "e30="})

    assert (refused["statusCode"], "another body" in refused["body"]) == (401, True)
    assert (answer["statusCode"], json.loads(answer["body"])["processed"]) == (200, 1)


async def test_a_function_whose_time_out_is_too_short_says_so(function: RuntimeApi) -> None:
    """The error names what is left, and what to change."""
    answer = await function.invoke({}, seconds=0.3)

    assert answer["errorType"] == "ConfigurationError"
    assert "a longer time-out of the Lambda function" in answer["errorMessage"]
