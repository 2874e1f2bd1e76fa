"""Passwords and tokens that change while jobs run: files, providers, and a server that is ahead."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.credentials import CredentialProvider
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.connection.upkeep import logins
from convolab_worker.errors import RedisUnavailable
from tests.faults.harness import Bench
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio


def _handlers(calls: list[str]) -> HandlerRegistry:
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> str:
        calls.append(job.id)
        await asyncio.sleep(job.data)
        return "done"

    return handlers


def _admin(bench: Bench) -> Any:
    """A client that no password of a test keeps out."""
    bench.redis.execute_command("ACL", "SETUSER", "admin", "on", ">admin", "~*", "&*", "+@all")
    return type(bench.redis)(
        port=bench.port, username="admin", password="admin", decode_responses=True
    )


async def test_a_password_that_rotates_on_a_live_server_costs_no_job(
    bench: Bench, tmp_path: Path
) -> None:
    """The server has the new one first, and cuts everybody off; the file follows."""
    file = tmp_path / "password"
    await asyncio.to_thread(file.write_text, "old-secret\n")
    calls: list[str] = []
    admin = _admin(bench)
    admin.config_set("requirepass", "old-secret")
    settings = bench.settings(redis_password_file=str(file), lock_duration=10.0)
    with capture_logs() as logs:
        async with Worker(_handlers(calls), settings), JobClient(settings) as client:
            ids = [await client.enqueue("work", 0.5) for _ in range(8)]
            await wait_until(lambda: calls, what="a job")
            admin.config_set("requirepass", "new-secret")
            admin.client_kill_filter(_type="normal", skipme=True)
            await wait_until(
                lambda: any("WRONGPASS" in line.get("error", "") for line in logs), what="a refusal"
            )
            with pytest.raises(RedisUnavailable, match="CONVOLAB_REDIS_PASSWORD_FILE"):
                await client.enqueue("work", 0)
            await asyncio.to_thread(file.write_text, "new-secret")

            assert [await client.result(job_id, timeout=10) for job_id in ids] == ["done"] * 8
    assert sorted(calls) == sorted(ids)
    assert "secret" not in str(logs)


class Tokens(CredentialProvider):
    """Gives the token of now, in a thread, as a client of a cloud's service does."""

    def __init__(self) -> None:
        self.token = "first"
        self.threads: set[str] = set()

    def get_credentials(self) -> tuple[str, str]:
        """Return the user and its token."""
        self.threads.add(threading.current_thread().name)
        return "worker", self.token


async def test_a_token_is_renewed_on_open_connections(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the old one ends; the connections stay, and the job that runs too."""
    monkeypatch.setattr(logins, "_ASK_SECONDS", 0.1)
    tokens = Tokens()
    calls: list[str] = []
    bench.redis.execute_command("ACL", "SETUSER", "worker", "on", ">first", "~*", "&*", "+@all")
    source: Redis = Redis(port=bench.port, credential_provider=tokens)
    settings = Settings.from_redis(
        source, queues=(bench.queue,), lock_duration=10.0, idle_min=60.0, idle_max=60.0
    )
    with capture_logs() as logs:
        async with Worker(_handlers(calls), settings), JobClient(settings) as client:
            job_id = await client.enqueue("work", 1.0)
            await wait_until(lambda: calls, what="the job")
            await wait_until(lambda: bench.blocked() == 1, what="the block")
            before = bench.redis.info("stats")["total_connections_received"]
            bench.redis.execute_command("ACL", "SETUSER", "worker", "resetpass", ">second")
            tokens.token = "second"
            await wait_until(
                lambda: any(line["event"] == "redis.logged_in_again" for line in logs),
                what="the login",
            )

            assert await client.result(job_id, timeout=10) == "done"
            auths = bench.redis.info("commandstats")["cmdstat_auth"]
            await wait_until(
                lambda: bench.redis.info("commandstats")["cmdstat_auth"]["calls"] >= 5,
                what="the login of the blocked connection",
            )
            assert bench.redis.info("stats")["total_connections_received"] <= before + 1
    assert auths["failed_calls"] == 0
    assert len(calls) == 1
    assert "MainThread" not in tokens.threads
    await source.aclose()


async def test_a_client_keeps_its_connections_when_a_token_is_renewed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one for commands, and the one that waits for events, which is blocked meanwhile."""
    monkeypatch.setattr(logins, "_ASK_SECONDS", 0.1)
    tokens = Tokens()
    bench.redis.execute_command("ACL", "SETUSER", "worker", "on", ">first", "~*", "&*", "+@all")
    source: Redis = Redis(port=bench.port, credential_provider=tokens)
    settings = Settings.from_redis(source, queues=(bench.queue,))

    def logged_in() -> int:
        return int(bench.redis.info("commandstats")["cmdstat_auth"]["calls"])

    with capture_logs() as logs:
        async with JobClient(settings) as client:
            waiting = asyncio.create_task(client.result(await client.enqueue("work", 1)))
            await wait_until(lambda: bench.blocked() == 1, what="the block")
            before, auths = bench.redis.info("stats")["total_connections_received"], logged_in()
            bench.redis.execute_command("ACL", "SETUSER", "worker", "resetpass", ">second")
            tokens.token = "second"
            await wait_until(lambda: logged_in() == auths + 2, what="the login of both")
            tokens.token = "made-up"
            await wait_until(
                lambda: [line for line in logs if line["event"] == "redis.login_refused"],
                what="a refusal in the log",
            )
            await client.enqueue("work", 2)

            assert bench.redis.info("stats")["total_connections_received"] == before
            assert not waiting.done()
            waiting.cancel()
    assert "made-up" not in str(logs)
    await source.aclose()


async def test_what_gives_no_password_is_named(bench: Bench, tmp_path: Path) -> None:
    """A file that is missing or empty, and a provider that raises."""
    file = tmp_path / "password"
    for problem in ("No such file", "is empty"):
        with pytest.raises(RedisUnavailable, match=problem):
            async with JobClient(bench.settings(redis_password_file=str(file))) as client:
                await client.counts()
        await asyncio.to_thread(file.touch)

    class Broken(CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            msg = "no token today"
            raise ValueError(msg)

    source: Redis = Redis(port=bench.port, credential_provider=Broken())
    with pytest.raises(RedisUnavailable, match="Broken gives no credentials.*no token today"):
        async with JobClient(Settings.from_redis(source)) as client:
            await client.counts()
    await source.aclose()
