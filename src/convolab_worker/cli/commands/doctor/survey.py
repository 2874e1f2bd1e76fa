"""Collects what ``doctor`` judges: from the server, its queues, the clock and the wake server."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import read_restrictions, text
from convolab_worker.bullmq.schedulers import listed
from convolab_worker.bullmq.script_runner import now_ms
from convolab_worker.cli.commands.doctor import app_checks, checks, waiting
from convolab_worker.cli.commands.doctor.history import Retention, ended, event_stream
from convolab_worker.cli.commands.doctor.wake_server import reach
from convolab_worker.client.operating.queues import find_queues, overview, workers_by_queue
from convolab_worker.connection.commands.error_replies import explain
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.connection.source import ServerSource
from convolab_worker.errors import RedisRefused, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from convolab_worker.bullmq.schedulers import ListedSchedule
    from convolab_worker.cli.commands.doctor.checks import Finding
    from convolab_worker.client.operating.queues import QueueStatus
    from convolab_worker.connection.connection import Connection
    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.settings import Settings

_PINGS = 20
_BLOCK_SECONDS = 1.0
_MOST_KEYS = 200_000  # a larger database is not searched for queues
_MOST_QUEUES = 50  # about 20 commands each, and 160 more if ended jobs are kept
_DAY_MS = 24 * 3600 * 1000
_LUA = "cjson.encode({1}) return cmsgpack.unpack(cmsgpack.pack('ok'))"
# The commands that the library sends, with arguments that a dry run accepts. Those that run
# inside scripts are among them: a script may only run commands that its user may run.
_USED = (
    ("EVALSHA", "x", "0"), ("EVAL", "x", "0"), ("BZPOPMIN", "k", "1"), ("EXISTS", "k"),
    ("PTTL", "k"), ("LRANGE", "k", "0", "1"), ("LLEN", "k"), ("LPOS", "k", "x"),
    ("LPUSH", "k", "x"), ("RPUSH", "k", "x"), ("RPOPLPUSH", "k", "k"), ("LREM", "k", "1", "x"),
    ("LTRIM", "k", "0", "1"), ("LINDEX", "k", "0"), ("HGET", "k", "f"), ("HMGET", "k", "f"),
    ("HGETALL", "k"), ("HSET", "k", "f", "x"), ("HMSET", "k", "f", "x"), ("HDEL", "k", "f"),
    ("HEXISTS", "k", "f"), ("HINCRBY", "k", "f", "1"), ("GET", "k"), ("MGET", "k"),
    ("SET", "k", "x"), ("DEL", "k"), ("INCR", "k"), ("EXPIRE", "k", "1"), ("RENAME", "k", "k"),
    ("ZADD", "k", "1", "x"), ("ZRANGE", "k", "0", "1"), ("ZCARD", "k"), ("ZREM", "k", "x"),
    ("ZSCORE", "k", "x"), ("ZPOPMIN", "k"), ("ZRANGEBYSCORE", "k", "0", "1"),
    ("ZREVRANGEBYSCORE", "k", "1", "0"), ("ZREMRANGEBYRANK", "k", "0", "1"),
    ("SADD", "k", "x"), ("SREM", "k", "x"), ("SMEMBERS", "k"), ("SCARD", "k"),
    ("SISMEMBER", "k", "x"), ("XADD", "k", "*", "f", "x"), ("XTRIM", "k", "MAXLEN", "1"),
    ("XRANGE", "k", "-", "+"), ("XREVRANGE", "k", "+", "-"),
    ("XREAD", "BLOCK", "1", "STREAMS", "k", "0"), ("CLIENT|INFO",), ("CLIENT|KILL", "ID", "1"),
    ("CLIENT|UNBLOCK", "1"), ("CLIENT|SETNAME", "x"), ("PERSIST", "k"), ("PEXPIRE", "k", "1"),
)  # fmt: skip


class Survey:
    """Looks once at everything that the settings name, through an open connection.

    With ``finds`` no queue was named, and it looks for all.
    """

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        handlers: HandlerRegistry | None,
        *,
        finds: bool,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._handlers = handlers
        self._finds = finds
        self._retention = Retention(settings, handlers)

    async def findings(self) -> AsyncIterator[Finding]:
        """Yield each check's finding as soon as it is known."""
        settings, info = self._settings, await self._server_info()
        yield checks.variables(settings.remarks)
        yield checks.server(info)
        yield checks.role(info)
        yield checks.cluster(_flag(info, "cluster_enabled"), settings.prefix)
        yield checks.eviction((info or {}).get("maxmemory_policy"), _number(info, "maxmemory"))
        yield checks.memory(_number(info, "used_memory"), _number(info, "maxmemory"))
        most_clients = await self._config("maxclients")
        yield checks.connections(_number(info, "connected_clients"), most_clients)
        yield checks.persistence(_flag(info, "aof_enabled"))
        yield await self._permissions()
        yield checks.scripts(await self._script_error())
        yield checks.blocking(_BLOCK_SECONDS, await self._block())
        yield checks.round_trip(await self._round_trips(), settings.command_timeout)
        yield checks.clock(await self._clock_difference())
        yield checks.idle_timeout(await self._config("timeout"), settings.idle_max)
        yield checks.lock(settings.lock_duration, settings.command_timeout)
        yield checks.billing(ServerSource.of(settings).address.host, settings.command_budget)
        found = await self._find()
        queues = [*settings.queues]
        if self._finds and found is None:
            yield app_checks.not_looked_for(queues)
        elif self._finds and found:
            queues = found
            if len(found) > _MOST_QUEUES:
                yield app_checks.too_many(_MOST_QUEUES, len(found))
        for queue in queues[:_MOST_QUEUES] if self._finds else queues:
            async for finding in self._queue(QueueKeys(settings.prefix, queue)):
                yield finding
        async for finding in self._routing(queues, found or []):
            yield finding
        if settings.wake_url is not None:
            error, status = await reach(settings, with_token=True)
            yield app_checks.wake(error, status)
            if error is None:
                yield app_checks.strangers((await reach(settings, with_token=False))[1])

    async def _ask(self, *command: Any) -> Any:
        """Return the reply; None if the server refuses the command."""
        try:
            return await self._connection.call(Purpose.STATUS, *command)
        except RedisRefused:
            return None

    async def _server_info(self) -> dict[str, str] | None:
        raw = await self._ask("INFO")
        if not isinstance(raw, bytes):
            return None
        lines = raw.decode("utf-8", "replace").splitlines()
        return dict(line.partition(":")[::2] for line in lines if ":" in line)

    async def _config(self, name: str) -> int | None:
        answer = await self._ask("CONFIG", "GET", name)
        return int(answer[1]) if isinstance(answer, list) and len(answer) > 1 else None

    async def _permissions(self) -> Finding:
        user = await self._ask("ACL", "WHOAMI")
        if not isinstance(user, bytes):
            return checks.permissions(None, None)
        prefix = self._settings.prefix
        key = QueueKeys(prefix, self._settings.queues[0])["marker"]
        missing: list[str] = []
        for command, *arguments in _USED:
            named = [key if argument == "k" else argument for argument in arguments]
            answer = await self._ask("ACL", "DRYRUN", user, *command.split("|"), *named)
            if answer is None:
                return checks.permissions(None, None)
            if answer != b"OK":
                missing.append(f"~{prefix}:*" if b"' key" in answer else f"+{command.lower()}")
        return checks.permissions(text(user), [*dict.fromkeys(missing)])

    async def _script_error(self) -> str | None:
        try:
            await self._connection.call(Purpose.STATUS, "EVAL", _LUA, 0)
        except RedisRefused as error:
            return str(error)
        return None

    async def _block(self) -> float | None:
        began = time.monotonic()
        key = QueueKeys(self._settings.prefix, f"doctor-{uuid.uuid4().hex}")["marker"]
        try:
            await self._connection.call(Purpose.STATUS, "BZPOPMIN", key, f"{_BLOCK_SECONDS:g}")
        except RedisUnavailable:
            with suppress(RedisUnavailable):
                await self._connection.open()  # for the checks that follow
            return None
        return time.monotonic() - began

    async def _round_trips(self) -> list[float]:
        took = []
        for _ in range(_PINGS):
            began = time.perf_counter()
            await self._ask("PING")
            took.append(time.perf_counter() - began)
        return took

    async def _clock_difference(self) -> float | None:
        began = time.time()
        answer = await self._ask("TIME")
        if answer is None:
            return None
        return (began + time.time()) / 2 - (int(answer[0]) + int(answer[1]) / 1e6)

    async def _queue(self, keys: QueueKeys) -> AsyncIterator[Finding]:
        version = await self._ask("HGET", keys["meta"], "version")
        yield app_checks.queue_version(keys.queue, text(version) if version else None)
        paused = app_checks.paused_list(keys.queue, await self._ask("LLEN", keys["paused"]) or 0)
        if paused is not None:
            yield paused
        fields = await self._ask("HMGET", keys["meta"], "paused", "concurrency")
        waits = await self._ask("LLEN", keys["wait"]) or 0
        waits += await self._ask("ZCARD", keys["prioritized"]) or 0
        day_ago = now_ms() - _DAY_MS
        for finding in (
            app_checks.paused(keys.queue, read_restrictions(fields or [None, None]), waits),
            app_checks.schedules(keys.queue, await self._schedules(keys)),
            app_checks.failed(
                keys.queue, await self._ask("ZCOUNT", keys["failed"], day_ago, "+inf") or 0
            ),
            app_checks.history(keys.queue, await ended(self._ask, keys, self._retention)),
            app_checks.events(keys.queue, await event_stream(self._ask, keys)),
        ):
            if finding is not None:
                yield finding
        if self._handlers is not None and self._is_for(keys.queue, self._handlers):
            async for each in self._jobs_of_handlers(keys, self._handlers):
                yield each

    def _is_for(self, queue: str, handlers: HandlerRegistry) -> bool:
        """Whether the queue is the application's; one that was only found may not be."""
        return (
            not self._finds
            or queue in self._settings.queues
            or any(each.queue == queue for each in handlers)
        )

    async def _find(self) -> list[str] | None:
        """Return the names of all queues; None where there is too much to look through."""
        if ((await self._ask("DBSIZE")) or _MOST_KEYS) < _MOST_KEYS:
            with suppress(RedisRefused):
                return await find_queues(self._connection, self._settings.prefix)
        return None

    async def _routing(self, named: Sequence[str], found: Sequence[str]) -> AsyncIterator[Finding]:
        """Find jobs that nobody fetches, on unnamed queues too, and handlers that get none."""
        settings, connection = self._settings, self._connection
        queues = [QueueKeys(settings.prefix, name) for name in dict.fromkeys([*named, *found])]
        states: list[QueueStatus] = []
        with suppress(RedisRefused):  # a user that may not look
            states = await overview(connection, settings.prefix, queues)
        for keys, queue in zip(queues, states, strict=False):
            count = queue.counts.get("waiting", 0) + queue.counts.get("prioritized", 0)
            if not count or queue.workers is None or queue.workers:
                continue
            is_woken = settings.wake_url is not None and queue.name in settings.queues
            jobs: dict[str, list[str]] = {}
            with suppress(RedisRefused):
                jobs = await waiting.waiting_jobs(connection, keys)
            yield app_checks.unserved(queue.name, count, jobs, is_woken=is_woken)
        if self._handlers is not None:
            served = await workers_by_queue(connection, settings.prefix) or {}
            unreachable = self._handlers.unreachable([*named, *served])
            bound = [(each.place, each.queue or "") for each in unreachable]
            finding = app_checks.unreachable(bound, named)
            if finding is not None:
                yield finding

    async def _schedules(self, keys: QueueKeys) -> list[ListedSchedule]:
        try:
            return await listed(self._connection, keys, now_ms())
        except RedisRefused:  # a user that may not look
            return []

    async def _jobs_of_handlers(
        self, keys: QueueKeys, handlers: HandlerRegistry
    ) -> AsyncIterator[Finding]:
        try:
            found = await waiting.waiting_jobs(self._connection, keys)
            refused = await waiting.refusals(self._connection, keys, handlers, found)
        except RedisRefused:  # a user that may not look
            return
        yield app_checks.unhandled(keys.queue, found, handlers.names_on(keys.queue))
        if found:
            yield app_checks.refused(keys.queue, refused)


def _number(info: dict[str, str] | None, name: str) -> int | None:
    found = (info or {}).get(name, "")
    return int(found) if found.isdecimal() else None


def _flag(info: dict[str, str] | None, name: str) -> bool | None:
    number = _number(info, name)
    return None if number is None else bool(number)


def unreachable(error: Exception, settings: Settings) -> Finding:
    """Return the finding that ends a survey: the server can't be reached, or refuses."""
    where = str(ServerSource.of(settings))
    found = explain(str(error), where) if isinstance(error, RedisRefused) else str(error)
    return checks.Finding(
        check="connection",
        verdict=checks.FAILURE,
        found=found,
        why="nothing works without it",
        advice="compare REDIS_URL with where the server listens, and with its users",
    )
