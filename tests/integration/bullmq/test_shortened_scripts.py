"""Our parts of BullMQ's scripts leave behind what BullMQ's scripts alone leave behind.

The same random history is lived twice, in two databases of one server: what a worker does by our
scripts in one, by BullMQ's in the other. After each step both worlds are compared whole.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import structs
from redis import Redis
from redis.exceptions import ResponseError

from convolab_worker.bullmq.protocol import client_calls
from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.client_calls import NewJob
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import ActiveJob, read_active_job
from convolab_worker.bullmq.protocol.scripts import Script, bullmqs_script, counted_script, script
from convolab_worker.bullmq.protocol.transitions import Limiter, Transitions
from tests.support.answers import as_bullmqs
from tests.support.server import ServerProcess

NOW = 1_700_000_000_000
STEPS = 80
OFTEN = 30  # in ten histories
RARELY = 0.3
SHORTENED = ("moveToActive", "moveToFinished")
WITH_SHORTENED = (*SHORTENED, "finishWithSteps")
# What BullMQ's texts of these run and ours never do: one to end a job, one to look for the next.
BULLMQS_ALONE = {"cmdstat_xtrim", "cmdstat_zrangebyscore"}
# Events are trimmed by whole nodes of the stream: small ones, and streams of a few nodes.
SMALL_NODES = {"stream-node-max-entries": "3"}
RETENTIONS: list[Any] = [
    None, None, None, True, False, 0, 1, 2, 5, {"count": 3}, {"age": 1}, {"age": 0.05},
    {"age": 1, "count": 4}, {"age": 1, "limit": 2}, {"age": 0}, {"count": 0}, {"age": -1},
]  # fmt: skip
ODD_COUNTS = ("1.5", "x", "-4", "", "007", "00", "9" * 14, "9" * 17, str(2**53))
VALUES = ["null", '"é😀"', '{"url": "x"}', "1" * 200, ""]
DUMP = """
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  local kind, value = redis.call('TYPE', key).ok
  if kind == 'string' then value = {redis.call('GET', key), tostring(redis.call('TTL', key) >= 0)}
  elseif kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'set' then value = redis.call('SMEMBERS', key) table.sort(value)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  else
    value = {}
    for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do value[#value + 1] = entry[2] end
  end
  found[string.sub(key, #ARGV[1] + 1)] = {kind, value}
end
return cjson.encode(found)
"""


@dataclass
class World:
    """One queue in a database of its own, and the jobs that its worker has in hand."""

    redis: Any
    find: Callable[[str], Script]
    limiter: Limiter | None
    metrics: int | None
    named: str | None
    active: dict[str, ActiveJob] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.keys = QueueKeys("bull", "q")
        self.calls = Transitions(
            self.keys,
            worker_name=self.named,
            lock_ms=30_000,
            limiter=self.limiter,
            metrics_points=self.metrics,
        )

    def run(self, call: Call) -> Any:
        """Run a call; its answer as BullMQ gives it, with the fields of a job as a dict."""
        found = self.find(call.script)
        self.redis.config_resetstat()
        try:
            answer = self.redis.eval(found.text, found.keys, *call.keys, *call.args)
        except ResponseError as error:
            self.counted["errors"] += 1
            return re.sub(r":\d+:", "", str(error).partition(" ")[0])  # without the script's line
        if self.find is counted_script:
            commands, answer = answer
            stats = self.redis.info("commandstats")
            # CONFIG RESETSTAT counts itself, and the script's call is one of ours.
            assert commands == sum(row["calls"] for row in stats.values()) - 2, (call, stats)
            is_ours = not BULLMQS_ALONE & stats.keys()
            self.counted[call.script if is_ours else f"{call.script}, BullMQ's"] += 1
        if call.script in WITH_SHORTENED:
            answer = as_bullmqs(answer)
        if isinstance(answer, list) and len(answer) == 4 and answer[2]:
            answer[2] = "limited"  # for a time that has become shorter
        if isinstance(answer, list) and answer and isinstance(answer[0], list):
            flat, job_id = answer[0], answer[1]
            answer = [dict(zip(flat[::2], flat[1::2], strict=True)), *answer[1:]]
            token = self.redis.get(self.keys.lock(job_id.decode())).decode()
            self.active[job_id.decode()] = read_active_job("q", job_id, token, flat)
        return answer

    # what a scene is made of

    def add(self, job_id: str, parent: str | None = None, **opts: Any) -> None:
        """Add a job, with a parent of this queue if one is named."""
        job = NewJob(
            id=job_id,
            name="work",
            data='{"a": 1}',
            opts=opts,
            parent=parent,
            parent_queue="bull:q" if parent else None,
        )
        self.run(client_calls.add_job(self.keys, job, NOW))

    def fetch(self, at: int = NOW) -> Any:
        """Start the next job."""
        return self.run(self.calls.fetch("w:1", at))

    def complete(self, job_id: str, at: int = NOW, *, fetch_next: bool = False) -> Any:
        """Complete a job that was started."""
        job = self.active.pop(job_id)
        return self.run(self.calls.finish(job, "completed", "1", at, fetch_next=fetch_next))

    def dump(self) -> Any:
        """All that Redis holds of this world, without the ids of events."""
        found = json.loads(self.redis.eval(DUMP, 0, "bull:q:"))
        for kind, value in found.values():
            if kind == "hash":  # Redis keeps no order of a hash that has long values
                value[:] = sorted(zip(value[::2], value[1::2], strict=True))
        return found


class History:
    """Draws what happens next, the same for both worlds."""

    def __init__(self, seed: int, worlds: list[World]) -> None:
        self.draw = random.Random(seed)
        self.worlds = worlds
        self.now = NOW
        self.added = 0
        self.tokens = 0

    def step(self) -> tuple[str, list[Any]]:
        """Let one thing happen in both worlds; its name and what came of it in each."""
        self.now += self.draw.choice([0, 0, 1, 3, 40, 300, -20])
        kinds = [self.add] * 9 + [self.fetch] * 4 + [self.finish] * 12 + [self.disturb]
        kinds += [self.add_again, self.recover] if self.draw.random() < RARELY else []
        return self.draw.choice(kinds)()

    def add(self) -> tuple[str, list[Any]]:
        self.added += 1
        draw = self.draw
        opts: dict[str, Any] = {}
        if draw.random() < 0.15:
            opts["delay"] = draw.choice([1, 20, 5000])
        elif draw.random() < 0.2:
            opts["priority"] = draw.randint(1, 3)
        elif draw.random() < 0.1:
            opts["lifo"] = True
        if draw.random() < 0.1:
            one = {"id": draw.choice("xy")}
            opts["deduplication"] = {**one, **draw.choice([{}, {"ttl": 60_000}])}
        retention = draw.choice(RETENTIONS)
        if retention is not None:
            opts["removeOnComplete"] = retention
        if draw.random() < 0.2:
            opts["attempts"] = 3
        parent = f"j{self.added // 4 * 4 - 2}" if draw.random() < 0.3 else None
        job_id, has_step = f"j{self.added}", draw.random() < 0.1

        for world in self.worlds:
            world.add(job_id, parent, **opts)
            if has_step:  # of an earlier run
                world.redis.hset(world.keys.job(job_id), "step:a", "1")
        return f"add {job_id} {opts} {parent}", [None, None]

    def add_again(self) -> tuple[str, list[Any]]:
        """Use an id again, of a job that is there or has lost its hash."""
        job_id = f"j{self.draw.randint(1, max(self.added, 1))}"
        policy, is_lost = self.draw.choice([1, 2, {"age": 1, "count": 2}]), self.draw.random() < 0.5
        for world in self.worlds:
            if is_lost:
                world.redis.delete(world.keys.job(job_id))
            world.add(job_id, removeOnComplete=policy)
        return f"add again {job_id} {policy} {is_lost}", [None, None]

    def recover(self) -> tuple[str, list[Any]]:
        """Another worker looks for stalled jobs."""
        answers = []
        for world in self.worlds:
            call = world.calls.recover_stalled(max_stalled=1, now_ms=self.now, interval_ms=1)
            answers.append(world.run(call))
            world.redis.delete(world.keys["stalled-check"])  # it has a time to live
        return "recover", answers

    def fetch(self) -> tuple[str, list[Any]]:
        self.tokens += 1
        token = f"w:{self.tokens}"
        return "fetch", [world.run(world.calls.fetch(token, self.now)) for world in self.worlds]

    def finish(self) -> tuple[str, list[Any]]:
        """End a job that is in hand; seldom one that was in hand before."""
        first, draw = self.worlds[0], self.draw
        if not first.active:
            return self.fetch()
        job_id = draw.choice(sorted(first.active))
        target = draw.choice(["completed"] * 9 + ["failed"])
        value, fetch_next = draw.choice(VALUES), draw.random() < 0.7
        forgotten, awaits = draw.random() < 0.95, draw.random() < 0.1
        answers = []
        for world in self.worlds:
            job = world.active.pop(job_id) if forgotten else world.active[job_id]
            if awaits:
                answers.append(world.run(world.calls.await_children(job, now_ms=self.now)))
                continue
            fields = {"failedReason": "no"} if target == "failed" else None
            call = world.calls.finish(
                job, target, value, self.now, fetch_next=fetch_next, fields=fields
            )
            answers.append(world.run(call))
        return f"{'await' if awaits else 'finish'} {job_id} {target} {fetch_next}", answers

    def disturb(self) -> tuple[str, list[Any]]:
        """What operators, other workers and other programs do."""
        draw = self.draw
        active = draw.choice(sorted(self.worlds[0].active) or ["j1"])
        any_id = f"j{draw.randint(1, max(self.added, 1))}"
        what: tuple[str, list[Any]] = draw.choice(
            [
                ("meta", ["HSET", "{meta}", "paused", "1"]),
                *[("meta", ["HDEL", "{meta}", "paused", "concurrency", "max", "duration"])] * 4,
                ("meta", ["HSET", "{meta}", "concurrency", draw.choice(["0", "1", "2.5", "50"])]),
                ("meta", ["HSET", "{meta}", "concurrency", draw.choice(["x", "", "-1"])]),
                ("meta", ["HSET", "{meta}", "max", "3", "duration", "60000"]),
                ("meta", ["HDEL", "{meta}", "opts.maxLenEvents"]),
                *[("meta", ["HSET", "{meta}", "opts.maxLenEvents", n]) for n in ("0", "1", "7")],
                ("meta", ["HSET", "{meta}", "opts.maxLenEvents", draw.choice(["x", "-3", "2.5"])]),
                ("lock", ["DEL", "{job}:lock"]),
                ("lock", ["SET", "{job}:lock", "another"]),
                ("active", ["LREM", "{active}", "0", active]),
                ("hash", ["DEL", "{job}"]),
                ("hash", ["DEL", "{any}"]),
                ("hash", ["HSET", "{any}", "ats", draw.choice(["7", *ODD_COUNTS])]),
                ("hash", ["HSET", "{job}", "atm", draw.choice(["7", *ODD_COUNTS])]),
                ("marker", ["RPUSH", "{wait}", "0:17"]),
                ("children", ["SADD", "{job}:dependencies", "a-child"]),
                ("children", ["DEL", "{job}:dependencies", "{job}:unsuccessful"]),
                ("children", ["ZADD", "{job}:unsuccessful", "1", "a-child"]),
                ("logs", ["RPUSH", "{job}:logs", "a row"]),
                ("delayed", ["ZADD", "{delayed}", "-5", "never"]),
                ("stalled", ["SADD", "{stalled}", active]),
                ("type", ["EVAL", "redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[1], 1)", "1",
                          draw.choice(["{job}", "{any}", "{completed}", "{delayed}", "{meta}"])]),
                ("mend", ["DEL", "{delayed}"]),
                ("mend", ["DEL", "{completed}"]),
                *[("mend", ["DEL", "{meta}"])] * 2,
            ]
        )  # fmt: skip
        name, command = what
        answers: list[Any] = []
        for world in self.worlds:
            names = {suffix: world.keys[suffix] for suffix in ("meta", "active", "delayed")}
            names |= {suffix: world.keys[suffix] for suffix in ("stalled", "completed", "wait")}
            jobs = {"job": world.keys.job(active), "any": world.keys.job(any_id)}
            # Lua's own braces do not occur.
            told = [part.format(**names, **jobs) for part in command]
            try:
                world.redis.execute_command(*told)
            except ResponseError as error:
                answers.append(str(error))
            else:
                answers.append(None)
        return f"{name} {command}", answers


@pytest.fixture(scope="module")
def small_nodes() -> Iterator[list[Any]]:
    """A server whose streams are trimmed after a few entries."""
    with ServerProcess(options=SMALL_NODES) as server:
        yield [Redis.from_url(server.url, db=number) for number in (0, 1)]


def worlds_of(databases: list[Any], seed: int) -> list[World]:
    """Two worlds that differ in the scripts: ours first."""
    draw = random.Random(-seed)
    databases[0].flushall()
    limiter = Limiter(2, 60_000) if draw.random() < 0.1 else None
    metrics = 60 if draw.random() < 0.1 else None
    named = draw.choice([None, "a-worker"])
    finders: list[Callable[[str], Script]] = [counted_script, first_bullmqs]
    return [
        World(database, find, limiter, metrics, named)
        for database, find in zip(databases, finders, strict=True)
    ]


def first_bullmqs(name: str) -> Script:
    """BullMQ's script where both have one of the name, and where ours includes that."""
    if name in SHORTENED:
        return bullmqs_script(name)
    of_both = script(name)
    ours, bullmqs = script("moveToFinished").text, bullmqs_script("moveToFinished").text
    return structs.replace(of_both, text=of_both.text.replace(ours, bullmqs))


@pytest.mark.parametrize("group", range(6))
def test_a_history_leaves_the_same_world_behind(small_nodes: list[Any], group: int) -> None:
    """Ten random histories; in most steps ours do all by themselves."""
    counted: Counter[str] = Counter()
    for seed in range(group * 10, group * 10 + 10):
        worlds = worlds_of(small_nodes, seed)
        history = History(seed, worlds)
        told = []
        for _ in range(STEPS):
            what, (ours, bullmqs) = history.step()
            told.append(what)
            assert ours == bullmqs, (seed, told)
            assert worlds[0].dump() == worlds[1].dump(), (seed, told)
        counted += worlds[0].counted

    assert min(counted[name] for name in SHORTENED) > OFTEN, counted
    assert min(counted[f"{name}, BullMQ's"] for name in SHORTENED) > 0, counted


Scene = Callable[[World], Any]
SCENES: dict[str, Scene] = {}


def scene(act: Scene) -> Scene:
    """Keep what is to come to the same in both worlds, whatever chance brings."""
    SCENES[act.__name__] = act
    return act


@scene
def a_job_that_ends_in_the_time_of_an_older_one(world: World) -> Any:
    """Which of the two is kept depends on their ids."""
    for job_id in "cab":
        world.add(job_id, removeOnComplete=1)
        world.fetch()
    return [world.complete(job_id) for job_id in "cab"]


@scene
def many_old_jobs_are_removed(world: World) -> Any:
    for number in range(14):
        world.add(f"j{number}", removeOnComplete=2 if number == 13 else False)
        world.fetch()
    return [world.complete(f"j{number}", NOW + number) for number in range(14)]


@scene
def an_old_child_is_removed_for_which_its_parent_waits_still(world: World) -> Any:
    """As where a program has put it back there: the parent goes on."""
    for job_id, parent_id in (("p", None), ("a", "p"), ("b", None)):
        world.add(job_id, parent_id, removeOnComplete=1)
        world.fetch()
    answers = [world.complete("a")]
    world.add("a2", "p")
    world.redis.sadd(f"{world.keys.job('p')}:dependencies", world.keys.job("a"))
    world.redis.srem(f"{world.keys.job('p')}:dependencies", world.keys.job("a2"))
    parent = world.active.pop("p")
    answers.append(world.run(world.calls.await_children(parent, now_ms=NOW)))
    return [*answers, world.complete("b", NOW + 1)]


@scene
def old_jobs_are_removed_a_few_at_a_time(world: World) -> Any:
    for number in range(9):
        policy = {"age": 1, "limit": 2} if number == 8 else False
        world.add(f"j{number}", removeOnComplete=policy)
        world.fetch()
    return [world.complete(f"j{number}", NOW + 1000 * number) for number in range(9)]


@scene
def the_last_child_brings_its_parent_back(world: World) -> Any:
    world.add("parent")
    world.fetch()
    for child in "ab":
        world.add(child, "parent")
    answers = [world.run(world.calls.await_children(world.active["parent"], now_ms=NOW))]
    answers += [world.fetch(), world.fetch()]
    return [*answers, *[world.complete(child, fetch_next=True) for child in "ab"]]


@scene
def the_results_of_children_are_of_another_type(world: World) -> Any:
    """The script stops half-way: the lock is gone, and the job in no list."""
    world.add("parent")
    world.fetch()
    for child in "ab":
        world.add(child, "parent")
    world.redis.set(f"{world.keys.job('parent')}:processed", 1)
    return [world.fetch(), world.fetch(), world.complete("a")]


@scene
def the_completed_jobs_are_of_another_type(world: World) -> Any:
    world.add("a")
    world.fetch()
    world.redis.set(world.keys["completed"], 1)
    return world.complete("a")


@scene
def the_next_job_can_not_be_started(world: World) -> Any:
    """The worker reads off the error's first words what is wrong."""
    for job_id in "ab":
        world.add(job_id)
    world.fetch()
    world.redis.hset(world.keys.job("b"), "ats", "x")
    return world.complete("a", fetch_next=True)


@scene
def the_last_job_of_a_paused_queue_ends(world: World) -> Any:
    """Nobody is told that the queue is drained: it was not asked."""
    world.add("a")
    world.fetch()
    world.redis.hset(world.keys["meta"], "paused", 1)
    return world.complete("a", fetch_next=True)


@scene
def a_marker_of_an_older_bullmq_waits(world: World) -> Any:
    world.add("a")
    world.redis.rpush(world.keys["wait"], "0:17")
    return [world.fetch(), world.fetch()]


@scene
def a_job_ends_while_a_marker_of_an_older_bullmq_waits(world: World) -> Any:
    """BullMQ's script starts no job then; after 0:0 a prioritized one, though others wait."""
    for job_id in "abc":
        world.add(job_id)
    world.add("first", priority=1)
    answers = [world.fetch(), world.fetch()]
    for job_id, marker in (("a", "0:17"), ("b", "0:0")):
        world.redis.rpush(world.keys["wait"], marker)
        answers.append(world.complete(job_id, fetch_next=True))
    return answers


@scene
def an_id_is_used_again_while_it_is_among_the_completed(world: World) -> Any:
    """The job takes its own place there: the others do not become too many."""
    for number, job_id in enumerate("abcb"):
        world.redis.delete(world.keys.job(job_id))  # as another program, or a lack of memory, does
        world.add(job_id, removeOnComplete=3)
        world.fetch()
        world.complete(job_id, NOW + number)
    return world.redis.zrange(world.keys["completed"], 0, -1)


@scene
def a_job_was_started_a_number_of_times_that_is_none(world: World) -> Any:
    answers = []
    for starts in ODD_COUNTS:
        world.add("a")
        world.redis.hset(world.keys.job("a"), "ats", starts)
        answers += [world.fetch(), world.redis.hget(world.keys.job("a"), "ats")]
        world.redis.delete(world.keys.job("a"))
    return answers


@scene
def a_job_has_made_a_number_of_attempts_that_is_none(world: World) -> Any:
    answers = []
    for attempts in ODD_COUNTS:
        world.add("a")
        world.redis.hset(world.keys.job("a"), "atm", attempts)
        world.fetch()
        answers += [world.complete("a"), world.redis.hget(world.keys.job("a"), "atm")]
        world.redis.delete(world.keys.job("a"))
    return answers


@scene
def a_number_of_events_is_to_be_kept_that_is_none(world: World) -> Any:
    answers = []
    for most in ODD_COUNTS:
        world.add("a")
        world.redis.hset(world.keys["meta"], "opts.maxLenEvents", most)
        world.fetch()
        answers.append(world.complete("a"))
        world.redis.delete(world.keys.job("a"), world.keys["meta"])
    return answers


@scene
def a_deduplicated_job_ends_without_its_options(world: World) -> Any:
    world.add("a", deduplication={"id": "x"})
    world.fetch()
    world.active["a"] = structs.replace(world.active["a"], opts={})
    return world.complete("a")


@pytest.mark.parametrize("act", SCENES.values(), ids=SCENES)
def test_a_scene_leaves_the_same_world_behind(small_nodes: list[Any], act: Scene) -> None:
    ours, bullmqs = worlds_of(small_nodes, seed=1)

    assert act(ours) == act(bullmqs)
    assert ours.dump() == bullmqs.dump()


def test_children_of_which_few_are_kept_end_by_our_script(small_nodes: list[Any]) -> None:
    """Each removes an older one, which no parent waits for any more."""
    ours = worlds_of(small_nodes, seed=1)[0]
    ours.add("parent")
    ours.fetch()
    for number in range(9):
        ours.add(f"j{number}", "parent", removeOnComplete=3)
        ours.fetch()

    for number in range(8):
        ours.complete(f"j{number}", NOW + number)

    assert ours.redis.zrange(ours.keys["completed"], 0, -1) == [b"j5", b"j6", b"j7"]
    assert ours.counted["moveToFinished"] == 8, ours.counted


def _parent_is_no_json(world: World) -> None:
    world.redis.hset(world.keys.job("a"), mapping={"parent": "{", "parentKey": "bull:q:p"})
    world.redis.sadd("bull:q:p:dependencies", world.keys.job("a"), "bull:q:another")


STOPS: dict[str, Callable[[World], Any]] = {
    "waiting jobs of another type": lambda world: world.redis.set(world.keys["wait"], 1),
    "a parent that is no JSON": _parent_is_no_json,
    "a marker of an older BullMQ": lambda world: world.redis.rpush(world.keys["wait"], "0:0"),
}


@pytest.mark.parametrize("harm", STOPS.values(), ids=STOPS)
def test_a_job_ends_where_bullmqs_script_would_stop(
    small_nodes: list[Any], harm: Callable[[World], Any]
) -> None:
    """The architecture page names these: the worker has no error to find its way out of."""
    answers = []
    for world in worlds_of(small_nodes, seed=1):
        world.add("a")
        world.fetch()
        harm(world)
        answers.append(world.complete("a", fetch_next=harm is STOPS["a marker of an older BullMQ"]))

    ours, bullmqs = answers
    assert (ours, type(bullmqs)) == (0, str), answers
    assert small_nodes[0].zscore("bull:q:completed", "a") == NOW
