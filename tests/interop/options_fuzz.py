"""Random jobs, as Node's ``add`` writes them and as any other program might, from a seed.

``make fuzz-options CASES=2000 SEED=42`` has Node's worker and ours run them side by side, and
prints every field, list and event that differs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from redis.asyncio import Redis

from convolab_worker import FailedAttempt, HandlerRegistry, Job, Settings, Worker
from convolab_worker.errors import UnrecoverableError
from tests.support.node import NodeScripts
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.node import NodeProcess

WORKER_NAME = "fuzz"
_AT_ONCE = 100  # queues, each with a worker of Node's
_QUIET_MS = 700
_TOO_LONG = 600_000  # a delay that no run waits for
_TIME = re.compile(r"\d{13}(\.\d+)?")
_TIMED = {"processedOn", "finishedOn", "timestamp", "ts"}
_HINTS = (":marker", ":stalled", ":stalled-check", ":limiter")

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, -1, 1.5, -0.5, "1", "2", "3", " 2 ", "-1", "1.5", "x", "", "1e0",
    "0x2", "true", "null", "Infinity", "\uff11", [], [2], ["2"], [1, 2], {}, {"a": 1}, 1e21,
    2**53 + 2,
)  # fmt: skip
NAMES = (
    "work", "käse 🧀", "音声", "a b", "a:b", " ", "0", "__proto__", "constructor", "toString",
    "x" * 90, "new\nline", "quote\"s'", "e\u0301", "\u200f", "*", "null",
)  # fmt: skip
IDS = (
    "käse-🧀", "id with spaces", "a:b:c", "__proto__", "meta-1", "x" * 200, "-1", "1.0",
    "0x1", "\u202eabc", "*", "[a]", "events2",
)  # fmt: skip
DATA = (
    "{}", "[]", "null", "0", '"text"', '{"a":{"b":[1,2,{"c":null}]}}', ' { "a" : 1 } ', "true",
    '{"a":1,"a":2}', '{"":0}', '{"käse":"🧀"}', '"\\ud83e\\uddc0"', "1.50", "-0", "1E3",
)  # fmt: skip
BROKEN = ("", "{", "x", "NaN", "undefined", "{'a':1}", "[1,]", "\ufeff{}")
DOES = ("return", "return", "fail", "fail", "once", "twice", "unrecoverable")


class Draw(random.Random):
    """A source of chance with the fuzz's habits."""

    def odd(self, usual: Sequence[Any], share: float = 0.4) -> Any:
        """One of the usual values, or any JSON value."""
        return self.choice(ODD) if self.random() < share else self.choice(usual)

    def wait(self, usual: Sequence[Any], share: float) -> Any:
        """A wait; none is so long that this library bounds it and Node does not."""
        odd = [value for value in ODD if not isinstance(value, (int, float)) or value < 2**53]
        return self.choice(odd) if self.random() < share else self.choice(usual)

    def is_so(self, share: float) -> bool:
        return self.random() < share


def cases(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """So many queues with their jobs; how often each kind occurs is in ``_KINDS``."""
    draw = Draw(seed)
    for _ in range(count):
        make = draw.choices([kind for kind, _ in _KINDS], [weight for _, weight in _KINDS])[0]
        yield {"kind": make.__name__.strip("_"), "jobs": make(draw)}


def _alone(draw: Draw) -> list[dict[str, Any]]:
    """One job, by Node's add or, where that refuses, by another program."""
    return [_job(draw, _options(draw))]


def _together(draw: Draw) -> list[dict[str, Any]]:
    """Jobs with the same options, which compete for what is kept; no time decides between them."""
    opts = _options(draw, timed=False)
    return [_job(draw, opts) for _ in range(draw.randint(2, 4))]


def _different(draw: Draw) -> list[dict[str, Any]]:
    """Jobs with options of their own."""
    return [_job(draw, _options(draw, timed=False)) for _ in range(draw.randint(2, 4))]


def _written(draw: Draw) -> list[dict[str, Any]]:
    """One job whose hash another program has written, wholly or in part, well or not."""
    job = _job(draw, _options(draw))
    return [{**job, "how": "write", "fields": _fields(draw, job)}]


def _stalled(draw: Draw) -> list[dict[str, Any]]:
    """Jobs of a worker that died."""
    opts = _options(draw, timed=False)
    jobs = []
    for _ in range(draw.randint(1, 3)):
        job = _job(draw, opts if draw.is_so(0.5) else _options(draw, timed=False))
        left = {"ats": draw.choice(["1", "2"]), "processedOn": "1700000000000"}
        if draw.is_so(0.6):
            left["stc"] = draw.choice(["0", "1", "1", "2", "9", "x", "-1", "1.5"])
        if draw.is_so(0.3):
            left["atm"] = draw.choice(["0", "1", "2", "9"])
        job["opts"].pop("jobId", None)
        jobs.append({**job, "how": "write", "state": "active", "fields": left})
    return jobs


def _family(draw: Draw) -> list[dict[str, Any]]:
    """A parent on this queue and its children there, with odd orders for a child's failure."""
    children = []
    for number in range(draw.randint(1, 3)):
        child = _job(draw, _options(draw, timed=False))
        orders = draw.choice(["fail", "ignore", "continue", "remove", "none", "none"])
        named = {
            "fail": "failParentOnFailure", "ignore": "ignoreDependencyOnFailure",
            "continue": "continueParentOnFailure", "remove": "removeDependencyOnFailure",
        }.get(orders)  # fmt: skip
        if named:
            child["opts"][named] = draw.odd([True])
        child["opts"].pop("deduplication", None)
        children.append({**child, "opts": {**child["opts"], "jobId": f"child-{number}"}})
    parent = _job(draw, _options(draw, timed=False))
    parent["opts"].pop("deduplication", None)
    parent["opts"].setdefault("jobId", "parent")
    return [{**parent, "how": "flow", "children": children}]


_KINDS: tuple[tuple[Callable[[Draw], list[dict[str, Any]]], int], ...] = (
    (_alone, 5), (_together, 2), (_different, 2), (_written, 5), (_stalled, 3), (_family, 3),
)  # fmt: skip


def _job(draw: Draw, opts: dict[str, Any]) -> dict[str, Any]:
    does = draw.choice(DOES)
    data: Any = {"do": does, "value": draw.choice([1, "text", None, {"a": [1]}, [], True, "ü🧀"])}
    name = draw.choice(NAMES) if draw.is_so(0.3) else "work"
    how = "write" if draw.is_so(0.15) else "add"
    return {"how": how, "name": name, "data": json.dumps(data), "opts": dict(opts)}


def _options(draw: Draw, *, timed: bool = True) -> dict[str, Any]:
    """Options of a job; without ``timed`` none has it wait for a time."""
    opts: dict[str, Any] = {}
    if draw.is_so(0.7):
        opts["attempts"] = draw.odd([1, 2, 3], 0.3)
    if draw.is_so(0.5):
        opts["backoff"] = _backoff(draw, timed=timed)
    for end in ("removeOnComplete", "removeOnFail"):
        if draw.is_so(0.4):
            opts[end] = _kept(draw)
    if timed and draw.is_so(0.25):
        opts["delay"] = draw.wait([0, 5, 20, _TOO_LONG], 0.3)
    if draw.is_so(0.15):
        opts["priority"] = draw.odd([0, 1, 2, 2**21 - 1], 0.3)
    for name, usual, share in (
        ("lifo", [True, False], 0.2),
        ("keepLogs", [0, 1, 2, 5], 0.25),
        ("stackTraceLimit", [0, 1, 2], 0.25),
        ("sizeLimit", [1, 10_000], 0.05),
        ("timestamp", [1_700_000_000_000], 0.05),
        ("failParentOnFailure", [True, False], 0.06),
        ("ignoreDependencyOnFailure", [True, False], 0.06),
        ("continueParentOnFailure", [True, False], 0.06),
        ("removeDependencyOnFailure", [True, False], 0.06),
        ("repeat", [{"every": 50}, {"pattern": "* * * * *"}, {"count": 1}], 0.04),
        ("telemetry", [{"metadata": "{}"}, {"omitContext": True}], 0.05),
        ("prevMillis", [1_700_000_000_000], 0.03),
        ("debounce", [{"id": "x"}], 0.02),
        ("nobody knows", [{"this": "option"}], 0.05),
    ):
        if draw.is_so(share):
            opts[name] = draw.odd(usual, 0.3)
    return {**opts, **_identity(draw, timed=timed)}


def _identity(draw: Draw, *, timed: bool) -> dict[str, Any]:
    opts: dict[str, Any] = {}
    if draw.is_so(0.1):
        opts["deduplication"] = _deduplication(draw, timed=timed)
    if timed and draw.is_so(0.15):  # a queue of several jobs has each once
        opts["jobId"] = draw.choice(IDS)
    return opts


def _backoff(draw: Draw, *, timed: bool) -> Any:
    kind = draw.choice(["fixed", "exponential", "fixed", "custom", "never", "?", None, 3, ""])
    delay = draw.wait([0, 5, 10] if timed else [0], 0.4 if timed else 0.0)
    given: dict[str, Any] = {"type": kind, "delay": delay}
    if draw.is_so(0.25):
        given["jitter"] = draw.odd([0, 0.5, 1])
    if draw.is_so(0.15):
        del given[draw.choice([*given])]
    if not timed and "delay" in given:
        given["delay"] = draw.choice([0, "0", None, False, ""])
    return draw.wait([given, given, given, 0, 5 if timed else 0], 0.2 if timed else 0.0)


# No second may decide between two runs.
_AGES: tuple[Any, ...] = (
    3600, 86_400, "3600", "1e6", " 7200 ", "0x1000", 0, -1, -0.5, "-1", "x", "", None, True, False,
    [], [3600], {}, 1e21,
)  # fmt: skip


def _kept(draw: Draw) -> Any:
    if draw.is_so(0.5):
        return draw.odd([True, False, 0, 1, 2])
    given = {
        "count": draw.odd([0, 1, 2, -1]), "age": draw.choice(_AGES),
        "limit": draw.odd([1, 10]),
    }  # fmt: skip
    return {key: value for key, value in given.items() if draw.is_so(0.6)}


def _deduplication(draw: Draw, *, timed: bool) -> Any:
    given: dict[str, Any] = {"id": draw.choice(["one", "two", "ü🧀", "a:b", "0"])}
    if draw.is_so(0.4):
        given["ttl"] = draw.choice([100_000, _TOO_LONG, "100000", None, True, 0, -1, "x", [], {}])
    for name in ("extend", "replace", "keepLastIfActive"):
        if draw.is_so(0.25) and (timed or name != "replace"):
            given[name] = draw.odd([True])
    return given


def _fields(draw: Draw, job: dict[str, Any]) -> dict[str, Any]:
    """What differs in the hash from what Node's add writes; None where a field is missing."""
    fields: dict[str, Any] = {}
    for _ in range(draw.choice([1, 1, 2, 3])):
        name, values = draw.choice(_FIELDS)
        fields[name] = draw.choice(values)
    if "opts" not in fields and draw.is_so(0.3):
        fields["opts"] = json.dumps(_shortened(draw, job["opts"]), ensure_ascii=draw.is_so(0.5))
    return fields


_SHORT = {
    "failParentOnFailure": "fpof", "continueParentOnFailure": "cpof", "keepLogs": "kl",
    "ignoreDependencyOnFailure": "idof", "removeDependencyOnFailure": "rdof",
    "deduplication": "de",
}  # fmt: skip


def _shortened(draw: Draw, opts: dict[str, Any]) -> dict[str, Any]:
    return {_SHORT.get(key, key) if draw.is_so(0.7) else key: opts[key] for key in opts}


_COUNTS = ("0", "1", "2", "9", "-1", "1.5", "x", "", "1e1", " 1", "99999999999999999999")
_FIELDS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("name", ("work", "👩‍🔧")),
    ("data", (None, *DATA, *DATA, *BROKEN)),
    ("opts", (None, "{}", "null", "[]", "0", '"x"', *BROKEN, '{"attempts":2,"attempts":1}')),
    ("timestamp", (None, *_COUNTS)),
    ("delay", (None, *_COUNTS)),
    ("priority", (None, *_COUNTS)),
    ("atm", _COUNTS),
    ("ats", _COUNTS),
    ("stc", _COUNTS),
    ("attemptsMade", ("", "9")),  # any less is for ever less than attempts, in Node
    ("defa", ("", "told to fail", "ü🧀", "null", "0")),
    ("stacktrace", ('["a"]', "x", '"text"', "null", "{}", "[1,null]", "[]", '["a","b","c"]', "")),
    ("failedReason", ("", "earlier", '"quoted"')),
    ("returnvalue", ("null", "1", "x", "")),
    ("progress", ("0", '{"a":1}', "x", "100", "")),
    ("pb", ("", "somebody")),
    ("finishedOn", ("0", "1700000000000", "x")),
    ("processedOn", ("0", "1700000000000", "x", "")),
    ("deid", ("", "nobody", "one")),
    ("rjk", ("", "gone", "a:b")),
    ("nrjid", ("repeat:gone:1", "")),
    ("parentKey", ("bull:none:1", "x", "")),
    ("parent", ('{"id":"1","queueKey":"bull:none"}', "{}", "null", "x", '{"fpof":true}')),
    ("a field of ours", ("x",)),
)  # fmt: skip


# what they are run by


async def run(node: NodeProcess, url: str, given: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """Run the cases by Node's worker and by ours at the same time; what each has left."""
    base = f"fuzz-{uuid.uuid4().hex[:8]}"
    prefixes = [f"{base}-node", f"{base}-ours"]
    for prefix in prefixes:
        await node.ask("stage_jobs", prefix=prefix, cases=given)
    errors = await _work(node, url, prefixes, len(given))
    async with Redis.from_url(url) as redis:
        found = [await _left(redis, prefix, len(given)) for prefix in prefixes]
    return zip(*found, errors, strict=True)


async def _work(node: NodeProcess, url: str, prefixes: Sequence[str], count: int) -> Any:
    queues = tuple(f"q{number}" for number in range(count))
    settings = Settings(
        redis_url=url, prefix=prefixes[1], queues=queues, listed="off", concurrency=1,
        worker_name=WORKER_NAME, progress_interval=0.0, idle_min=0.05, idle_max=0.2,
        shutdown_grace=0.2,
    )  # fmt: skip
    loop = asyncio.get_running_loop()
    moved = [loop.time()]
    async with Worker(_registry(moved, loop), settings):
        errors = await node.ask(
            "work", prefix=prefixes[0], count=count, quiet=_QUIET_MS, name=WORKER_NAME, stalled=150
        )
        await wait_until(lambda: loop.time() - moved[0] > _QUIET_MS / 1000, what="no more jobs")
    return errors


def _registry(moved: list[float], loop: asyncio.AbstractEventLoop) -> HandlerRegistry:
    handlers = HandlerRegistry()

    async def handle(job: Job[Any]) -> Any:
        moved[0] = loop.time()
        for row in "abc":
            job.log.info(row)
        data = job.data if isinstance(job.data, dict) else {}
        does = data.get("do")
        if does == "unrecoverable":
            raise UnrecoverableError(does)
        failing = {"fail": 6, "once": 1, "twice": 2}.get(str(does), 0)
        if job.attempt <= failing:
            raise RuntimeError(does)
        return data.get("value", job.data)

    names = {*NAMES, *dict(_FIELDS)["name"]}
    handlers.audio(*names)(handle)
    handlers.backoff("custom")(_custom)
    handlers.backoff("never")(lambda _: -1)
    return handlers


def _custom(failed: FailedAttempt) -> float:
    del failed
    return 0.0


async def _left(redis: Any, prefix: str, count: int) -> list[dict[str, Any]]:
    """Everything that the queues have in Redis, comparable with another run; it is removed."""
    keys = [key async for key in redis.scan_iter(match=f"{prefix}:*", count=1000)]
    async with redis.pipeline(transaction=False) as asked:
        for key in keys:
            asked.type(key)
        kinds = [kind.decode() for kind in await asked.execute()]
        # "none" is a key that has run out meanwhile: a rate limit, a deduplication.
        there = [(key, kind) for key, kind in zip(keys, kinds, strict=True) if kind != "none"]
        for key, kind in there:
            _READERS[kind](asked, key)
        values = await asked.execute()
        await asked.unlink(*keys).execute()
    queues: list[dict[str, Any]] = [{} for _ in range(count)]
    for (key, kind), value in zip(there, values, strict=True):
        name = key.decode()
        if not name.endswith(_HINTS):
            queue, _, short = name.removeprefix(f"{prefix}:q").partition(":")
            queues[int(queue)][short] = _comparable(short, kind, value, prefix)
    return queues


_READERS: dict[str, Callable[[Any, bytes], Any]] = {
    "string": lambda redis, key: redis.get(key),
    "hash": lambda redis, key: redis.hgetall(key),
    "list": lambda redis, key: redis.lrange(key, 0, -1),
    "set": lambda redis, key: redis.smembers(key),
    "zset": lambda redis, key: redis.zrange(key, 0, -1, withscores=True),
    "stream": lambda redis, key: redis.xrange(key),
}


def _comparable(key: str, kind: str, value: Any, prefix: str) -> Any:
    if kind == "hash":
        fields = {_text(name, prefix): _text(told, prefix) for name, told in value.items()}
        return {name: _field(name, told) for name, told in fields.items()}
    if kind == "stream":
        events = [{_text(k, prefix): _text(v, prefix) for k, v in e.items()} for _, e in value]
        return [
            {k: _event(k, v) for k, v in event.items()}
            for event in events
            if event["event"] != "drained"  # told by a fetch in vain, which ours leaves out
        ]
    if kind == "zset":  # by time: two ends in one millisecond stand in the order of their ids
        scored = sorted((_text(member, prefix), score) for member, score in value)
        return scored if key == "prioritized" else [member for member, _ in scored]
    if kind in {"list", "set"}:
        members = [_text(each, prefix) for each in (sorted(value) if kind == "set" else value)]
        is_log = key.endswith(":logs")  # whose rows begin with their level: documented
        return [each.removeprefix("[info] ") for each in members] if is_log else members
    return _text(value, prefix)


def _event(name: str, value: str) -> Any:
    return _TIME.sub("<time>", value) if name == "delay" else _field(name, value)


def _text(raw: bytes, prefix: str) -> str:
    return raw.decode("utf-8", "surrogateescape").replace(prefix, "P")


def _number(text: str) -> float:
    """A number as whoever reads JSON has it; documented: Python spells some in its own way."""
    return int(float(text)) if float(text).is_integer() else float(text)


def _field(name: str, value: str) -> Any:
    if name in _TIMED and _TIME.fullmatch(value):
        return "<time>"
    if name == "failedReason":  # documented: a parent that its child failed says why that failed
        return re.sub(r"^(child \S+ failed): .*", r"\1", value, flags=re.DOTALL)
    if name not in {"returnvalue", "stacktrace"}:
        return value
    try:
        read = json.loads(value, parse_float=_number)
    except ValueError:
        return value
    is_traces = name == "stacktrace" and isinstance(read, list)
    return f"{len(read)} traces" if is_traces else read


# what differs


def is_better(theirs: dict[str, Any], errors: Sequence[str]) -> bool:
    """Whether Node's worker had an error of its own with the jobs, or left one active.

    Documented: this one fails such a job with a reason, or runs it.
    """
    told = [*theirs.get("events", ()), *(v for v in theirs.values() if isinstance(v, dict))]
    reasons = [str(each.get("failedReason")) for each in told]
    is_refused = any(reason.startswith(("ERR ", "Missing key")) for reason in reasons)
    return bool(errors) or is_refused or "active" in theirs


# Documented: a job that fails without its handler being run has no stack.
_UNRUN = {(f"{n + 1} traces", f"{n} traces") for n in range(5)}


def differences(theirs: Any, ours: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each field, list and event that differs, by its place."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            one, other = theirs.get(key, "(absent)"), ours.get(key, "(absent)")
            yield from differences(one, other, f"{path}/{key}")
    elif path.endswith("/stacktrace") and (theirs, ours) in _UNRUN:
        return
    elif theirs != ours or type(theirs) is not type(ours):
        yield path, theirs, ours


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs, as text for each case; and how many jobs Node's worker could not run."""

    differ: list[str]
    better: int


async def compare(node: NodeScripts, url: str, seed: int, count: int) -> Comparison:
    """Run so many cases of a seed by both workers."""
    told, better = [], 0
    given = [*cases(seed, count)]
    async with await node.start("job_options.mjs", url) as script:
        for start in range(0, count, _AT_ONCE):
            part = given[start : start + _AT_ONCE]
            runs = await run(script, url, part)
            for number, (case, (theirs, ours, errors)) in enumerate(
                zip(part, runs, strict=True), start
            ):
                if is_better(theirs, errors):
                    better += 1
                    continue
                found = [*differences(theirs, ours)]
                if found:
                    lines = [f"  {path}\n    node {a}\n    ours {b}" for path, a, b in found]
                    what = json.dumps(case, ensure_ascii=False)
                    told.append("\n".join([f"case {number} of seed {seed}: {what}", *lines]))
    return Comparison(told, better)


def main() -> None:
    """Run many, and say what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    args = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # no line is wanted
    with ServerProcess() as server:
        found = asyncio.run(compare(NodeScripts(), server.url, args.seed, args.cases))
    print("\n".join(found.differ))  # noqa: T201
    kinds = Counter(case["kind"] for case in cases(args.seed, args.cases))
    print(f"{args.cases} cases of seed {args.seed}: {dict(kinds)}")  # noqa: T201
    print(f"{len(found.differ)} differ; Node had errors with {found.better}")  # noqa: T201
    sys.exit(bool(found.differ))


if __name__ == "__main__":
    main()
