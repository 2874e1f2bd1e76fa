"""Jobs that no handler can do anything with: each fails alone, with its reason."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest

from convolab_worker import HandlerRegistry, Job, Worker
from tests.faults.harness import Bench
from tests.support.waiting import wait_until


@pytest.fixture
def bench(safe_bench: Bench) -> Bench:
    """None of these faults is the server's."""
    return safe_bench


@dataclass
class Shape:
    size: int


def _handlers(seen: list[Any]) -> HandlerRegistry:
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> int:
        seen.append(job.data)
        return len(seen)

    @handlers.audio("shape")
    async def shape(job: Job[Shape]) -> int:
        return job.data.size

    @handlers.audio("result")
    async def result(job: Job[str]) -> Any:
        return RESULTS[job.data]

    @handlers.audio("break")
    async def break_(_: Job[Any]) -> None:
        msg = "broken"
        raise ValueError(msg)

    return handlers


_CIRCLE: list[Any] = []
_CIRCLE.append(_CIRCLE)
RESULTS: dict[str, Any] = {
    "nan": float("nan"),
    "infinity": [float("inf")],
    "surrogate": "\ud800",
    "bytes": b"bytes",
    "circle": _CIRCLE,
    "big": 2**60,
    "object": object(),
}

# The data as the producer wrote it, and what the failure's reason says of it; None: it is fine.
DATA: dict[str, tuple[bytes, str | None]] = {
    "not JSON": (b"{size: 1", "expected"),
    "empty": (b"", None),  # which Node reads as no data
    "NaN": (b'{"size": NaN}', "NaN"),
    "Infinity": (b"[-Infinity]", "Infinity"),
    "not UTF-8": (b'"\xff\xfe"', "UTF-8"),
    "deep": (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
    "half deep": (b"[" * 900 + b"]" * 900, None),
    "long number": (b"1" * 10_000, "number"),
    "escaped surrogate": (b'"\\ud800"', None),
    "5 MB": (json.dumps("x" * 5_000_000).encode(), None),
    "null": (b"null", None),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", DATA)
async def test_bad_data_fails_its_job_alone(bench: Bench, kind: str) -> None:
    """Data that can't be read fails the job for good with a reason; the next job runs."""
    raw, reason = DATA[kind]
    bad, good = await bench.add({}, {}, attempts=3)
    bench.redis.hset(bench.key(bad), "data", raw)
    seen: list[Any] = []
    async with bench.worker(_handlers(seen), concurrency=1):
        await bench.all_in("completed", [good])
        await bench.all_in("completed" if reason is None else "failed", [bad])

    if reason is not None:
        assert reason in str(bench.field(bad, "failedReason"))
        assert bench.field(bad, "atm") == "1"
    assert len(seen) == 1 + (reason is None)


@pytest.mark.asyncio
async def test_a_wrong_shape_names_the_field(bench: Bench) -> None:
    """Data of another shape than the handler asks for fails with the field's name."""
    (bad,) = await bench.add({"size": "large"}, name="shape")
    async with bench.worker(_handlers([])):
        await bench.all_in("failed", [bad])
    assert "size" in str(bench.field(bad, "failedReason"))


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", RESULTS)
async def test_a_result_that_is_not_json_fails_its_job_once(bench: Bench, kind: str) -> None:
    """A result that can't be written fails the job for good: the work is not done again."""
    (bad,) = await bench.add(kind, name="result", attempts=3)
    (good,) = await bench.add({})
    async with bench.worker(_handlers([])):
        await bench.all_in("failed", [bad])
        await bench.all_in("completed", [good])
    assert bench.field(bad, "atm") == "1"


@pytest.mark.asyncio
@pytest.mark.parametrize("field", ["name", "data", "opts", "timestamp", "everything"])
async def test_a_hash_with_fields_missing_harms_nobody(bench: Bench, field: str) -> None:
    """A job whose hash lacks a field, or all of them, is done or failed, and the next one runs."""
    bad, good = await bench.add({}, {})
    if field == "everything":
        bench.redis.delete(bench.key(bad))
    else:
        bench.redis.hdel(bench.key(bad), field)
    async with bench.worker(_handlers([]), concurrency=1) as worker:
        await bench.all_in("completed", [good])
        await wait_until(lambda: not bench.states().keys() & {"active", "wait"}, what="the end")
        await wait_until(lambda: worker.stats()["free"] == 1, what="the free slot")
    assert bad in bench.ids_in("completed") + bench.ids_in("failed")


IDS = ["a:b:c", "🎧", "with space", "ключ", "x" * 5000, "{tag}", "*?[a]", "line\nbreak", "\x00"]


@pytest.mark.asyncio
@pytest.mark.parametrize("job_id", IDS)
async def test_an_odd_job_id_is_an_id_like_any_other(bench: Bench, job_id: str) -> None:
    """A job may be called anything: it runs, and its worker goes on."""
    _stage(bench, job_id.encode())
    (good,) = await bench.add({})
    async with bench.worker(_handlers([]), concurrency=1):
        await bench.all_in("completed", [job_id, good])


@pytest.mark.asyncio
async def test_an_id_that_is_not_utf8_harms_nobody(bench: Bench) -> None:
    """A job whose id no BullMQ could have written keeps its lock and ends, as other jobs do."""
    gate = asyncio.Event()
    handlers = _handlers([])

    @handlers.audio("held")
    async def held(_: Job[Any]) -> None:
        await gate.wait()

    _stage(bench, b"\xff\xfe", name="held")
    async with bench.worker(handlers, concurrency=2) as worker:
        (good,) = await bench.add({})
        await wait_until(lambda: _completed(bench, good), what="the other job")
        await wait_until(
            lambda: "lock" in _purposes(worker), what="a renewal of the odd job's lock"
        )
        await wait_until(lambda: "stalled" in _purposes(worker), what="a check of active jobs")
        gate.set()
        await wait_until(lambda: _completed(bench, b"\xff\xfe"), what="the odd job")


def _completed(bench: Bench, job_id: str | bytes) -> bool:
    return bench.redis.zscore(bench.key("completed"), job_id) is not None


def _purposes(worker: Worker) -> dict[str, Any]:
    purposes: dict[str, Any] = worker.stats()["commands"]["by_purpose"]
    return purposes


def _stage(bench: Bench, job_id: bytes, name: str = "work") -> None:
    """Put a job into the queue by hand."""
    fields: dict[Any, Any] = {"name": name, "data": "{}", "opts": "{}", "timestamp": "1"}
    bench.redis.hset(b"bull:" + bench.queue.encode() + b":" + job_id, mapping=fields)
    bench.redis.lpush(bench.key("wait"), job_id)
    bench.redis.zadd(bench.key("marker"), {"0": 0})


OPTS: dict[str, str] = {
    "not JSON": "{",
    "a list": "[]",
    "attempts": '{"attempts":"three"}',
    "huge attempts": '{"attempts":1e400}',
    "negative attempts": '{"attempts":-1}',
    "removeOnComplete": '{"removeOnComplete":"yes","removeOnFail":"yes"}',
    "keepJobs": '{"removeOnComplete":{"age":"old","count":"x"},"removeOnFail":{"age":[]}}',
    "backoff": '{"attempts":3,"backoff":{"type":"nonsense","delay":"x"}}',
    "lifo": '{"attempts":2,"lifo":"yes"}',
    "stackTraceLimit": '{"stackTraceLimit":-3}',
    "keepLogs": '{"keepLogs":"many"}',
    "big number": '{"removeOnComplete":123456789012345678901234567890}',
}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["work", "break"])
@pytest.mark.parametrize("kind", OPTS)
async def test_odd_options_harm_nobody(bench: Bench, kind: str, name: str) -> None:
    """A job whose options make no sense ends in one state or another, and the next one runs."""
    (bad,) = await bench.add({}, name=name)
    (good,) = await bench.add({})
    bench.redis.hset(bench.key(bad), "opts", OPTS[kind])
    async with bench.worker(_handlers([]), concurrency=1) as worker:
        await bench.all_in("completed", [good])
        await wait_until(
            lambda: not bench.states().keys() & {"active", "wait", "delayed"},
            what="the end",
        )
        await wait_until(lambda: worker.stats()["free"] == 1, what="the free slot")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stacktrace", "not JSON"),
        ("atm", "many"),
        ("timestamp", "1e999"),
        ("delay", "nan"),
        ("parentKey", "nowhere:1"),
        ("rjk", "no-such-scheduler"),
        ("defa", "a child's failure"),
        ("progress", "not JSON"),
    ],
)
async def test_odd_fields_harm_nobody(bench: Bench, field: str, value: str) -> None:
    """A job whose bookkeeping makes no sense ends in one state, and the next one runs."""
    (bad,) = await bench.add({}, name="break")
    (good,) = await bench.add({})
    bench.redis.hset(bench.key(bad), field, value)
    async with bench.worker(_handlers([]), concurrency=1):
        await bench.all_in("completed", [good])
        await bench.all_in("failed", [bad])
