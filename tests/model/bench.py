"""The server that plans run on: direct access to the keys of a plan's queues."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from redis import Redis

from tests.support.scripted import script_texts

if TYPE_CHECKING:
    from convolab_worker.embedded import EmbeddedServer

LISTS = ("wait", "paused", "active")
SETS = ("prioritized", "delayed", "completed", "failed", "waiting-children")
ENDED = {"completed", "failed"}
# An id without a job; BullMQ's own script makes an incomplete hash for it.
STRAY_ID = "no-such-job"
# Keys of a queue that belong to no job.
_OWN = {*LISTS, *SETS, "id", "meta", "events", "marker", "limiter", "pc", STRAY_ID}
_OWN |= {"stalled", "stalled-check", "repeat", "repeat:again"}
_OWN_STARTS = ("cancel:", "metrics:", "de:")
_PARTS = (":lock", ":logs", ":processed", ":dependencies", ":failed", ":unsuccessful")
_FLUSH = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end"
_LONG_RATE = 1 << 30


class ModelBench:
    """One server, seen past every proxy."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.port = server.port
        self.url = server.url
        # Any: redis-py's types leave open whether a client is asynchronous.
        self.redis: Any = Redis.from_url(server.url, protocol=2, socket_timeout=None)
        self.script_texts = script_texts()
        self._pause = _bullmq_script("pause-7").read_text(encoding="utf-8")
        self.load_scripts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()

    def load_scripts(self) -> None:
        """Load every script, so that no plan depends on the plans before it."""
        for text in self.script_texts:
            self.redis.script_load(text)

    def queue(self, name: str) -> QueueBench:
        """One queue."""
        return QueueBench(self.redis, self._pause, name)

    def strangers(self) -> list[str]:
        """The connections of the server other than this one."""
        own = self.redis.client_id()
        clients = self.redis.client_list()
        return [f"{c['addr']} {c['cmd']}" for c in clients if int(c["id"]) != own]


class QueueBench:
    """One queue on the server."""

    def __init__(self, redis: Any, pause: str, name: str) -> None:
        self.redis = redis
        self._pause = pause
        self.name = name

    def key(self, part: str) -> str:
        """A key of the queue, by its last part."""
        return f"bull:{self.name}:{part}"

    def places(self) -> dict[str, list[str]]:
        """The ids of the jobs by state, read in one transaction; empty states are left out."""
        pipeline = self.redis.pipeline(transaction=True)
        for state in LISTS:
            pipeline.lrange(self.key(state), 0, -1)
        for state in SETS:
            pipeline.zrange(self.key(state), 0, -1)
        told = zip((*LISTS, *SETS), pipeline.execute(), strict=True)
        return {state: [_text(job_id) for job_id in ids] for state, ids in told if ids}

    def unended(self) -> dict[str, list[str]]:
        """The jobs that have not ended, by state; those in active with their locks."""
        places = {state: ids for state, ids in self.places().items() if state not in ENDED}
        if "active" in places:
            places["active"] = [
                f"{job_id} (lock {self.redis.pttl(self.key(job_id + ':lock'))} ms)"
                for job_id in places["active"]
            ]
        return places

    def locks(self) -> list[str]:
        """The ids of the jobs that are locked."""
        names = [_text(key) for key in self.redis.keys(self.key("*:lock"))]
        return sorted(name.removeprefix(self.key("")).removesuffix(":lock") for name in names)

    def garbage(self) -> list[str]:
        """Keys that should not be there: parts of a missing job, and incomplete job hashes."""
        names = {_text(key).removeprefix(self.key("")) for key in self.redis.keys(self.key("*"))}
        return sorted(
            told
            for name in names - _OWN
            if not name.startswith(_OWN_STARTS) and (told := self._complaint(name, names))
        )

    def _complaint(self, name: str, names: set[str]) -> str:
        part = next((part for part in _PARTS if name.endswith(part)), "")
        if part:
            return "" if name.removesuffix(part) in names else f"{name} without its job"
        key = self.key(name)
        if _text(self.redis.type(key)) != "hash" or self.redis.hexists(key, "name"):
            return ""
        return f"{name} has only {self.redis.hgetall(key)}"

    def fields(self, job_id: str, *names: str) -> list[str | None]:
        """Fields of the job's hash."""
        told = self.redis.hmget(self.key(job_id), *names)
        return [None if value is None else _text(value) for value in told]

    # what other programs do

    def pause(self, *, on: bool) -> None:
        """Pause or resume the queue, as BullMQ does."""
        names = ("wait", "paused") if on else ("paused", "wait")
        rest = ("meta", "prioritized", "events", "delayed", "marker")
        keys = [self.key(part) for part in (*names, *rest)]
        self.redis.eval(self._pause, len(keys), *keys, "paused" if on else "resumed")

    def limit(self, concurrency: str | None) -> None:
        """Set or remove the queue's own concurrency, as Node's setGlobalConcurrency does."""
        if concurrency is None:
            self.redis.hdel(self.key("meta"), "concurrency")
        else:
            self.redis.hset(self.key("meta"), "concurrency", concurrency)

    def rate_limit(self, seconds: float) -> None:
        """Let no job start for so many seconds, as BullMQ's rateLimit does."""
        self.redis.set(self.key("limiter"), _LONG_RATE, px=round(seconds * 1000))

    def flush(self) -> None:
        """Delete every key of the queue, as FLUSHALL and obliterate do."""
        self.redis.eval(_FLUSH, 0, self.key("*"))


def _bullmq_script(name: str) -> Path:
    spec = importlib.util.find_spec("bullmq")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "commands" / f"{name}.lua"


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
