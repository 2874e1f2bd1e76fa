"""Every part of bullmq's Python package that we touch, pinned by name, keys and arguments.

``protocol`` builds KEYS and ARGV of bullmq's scripts itself. Here each call is compared with the
one that bullmq's own ``Scripts`` builds, caught by a stand-in for its registered commands, so that
a bullmq with other scripts, keys or arguments fails by name. What the scripts then do is pinned in
``test_conformance_behaviour.py``.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bullmq.job
import bullmq.scripts
import msgpack
import pytest
from bullmq.error_code import ErrorCode
from bullmq.queue_keys import QueueKeys as TheirKeys
from bullmq.redis_connection import SCRIPT_DEFINITIONS
from msgspec.structs import replace

import convolab_worker
from convolab_worker.bullmq.protocol import job_options, records, scripts
from convolab_worker.bullmq.protocol.calls import (
    Call,
    advance_scheduler,
    drop_children,
    state_of,
    update_data,
)
from convolab_worker.bullmq.protocol.client_calls import (
    NewJob,
    add_job,
    clean_jobs,
    pause_queue,
    remove_job,
    remove_job_in,
    resume_queue,
    retry_job,
)
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.bullmq.protocol.transitions import Transitions

NOW_MS = 1_700_000_000_123
LOCK_MS = 45_000
TOKEN = "worker:7"
FIELDS = {"failedReason": "no voice", "stacktrace": '["Traceback"]'}

# Every script that the library runs, and how many KEYS it takes.
PINNED = {
    "addDelayedJob": 6,
    "addJobScheduler": 11,
    "addLog": 2,
    "addParentJob": 6,
    "addPrioritizedJob": 9,
    "addStandardJob": 9,
    "cleanJobsInSet": 3,
    "extendLocks": 1,
    "removeUnprocessedChildren": 2,
    "pause": 7,
    "promote": 9,
    "removeJob": 2,
    "removeJobScheduler": 3,
    "getCounts": 1,
    "getStateV2": 8,
    "isFinished": 3,
    "moveJobFromActiveToWait": 9,
    "moveStalledJobsToWait": 9,
    "moveToActive": 11,
    "moveToDelayed": 11,
    "moveToFinished": 14,
    "moveToWaitingChildren": 7,
    "reprocessJob": 9,
    "retryJob": 11,
    "updateData": 1,
    "updateJobScheduler": 12,
    "updateProgress": 3,
}
# Scripts that bullmq's Python ships and never runs itself: only their behaviour can be compared.
NOT_RUN_BY_BULLMQ = {
    "addLog", "isFinished", "moveJobFromActiveToWait", "promote", "removeUnprocessedChildren",
}  # fmt: skip


class Recorder:
    """Stands where bullmq keeps its connection; keeps the call that was made last."""

    def __init__(self) -> None:
        self.conn = None
        self.made: Call | None = None
        self.commands = {name: self._command(name) for name in SCRIPT_DEFINITIONS}

    def _command(self, name: str) -> Callable[..., Any]:
        async def answer() -> int:
            return 0

        def command(
            keys: list[str] | None = None, args: list[Any] | None = None, client: object = None
        ) -> Any:
            del client
            self.made = Call(name, keys or [], args or [])
            return answer()

        return command

    async def getRedisVersion(self) -> str:  # noqa: N802 - bullmq's name for it
        """Report a server that has LPOS."""
        return "7.2.0"


@pytest.fixture
def recorder() -> Recorder:
    """What records the calls of ``theirs``."""
    return Recorder()


@pytest.fixture
def theirs(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Any:
    """bullmq's own builder of calls, its clock stopped, talking to the recorder."""
    monkeypatch.setattr(bullmq.scripts, "time", SimpleNamespace(time=lambda: NOW_MS / 1000))
    return bullmq.scripts.Scripts("prefix", "queue", recorder)


@pytest.fixture
def ours() -> Transitions:
    """Our builder for the same queue, of a worker without a name, as bullmq's Python is."""
    return Transitions(QueueKeys("prefix", "queue"), worker_name=None, lock_ms=LOCK_MS)


def taken(**opts: Any) -> ActiveJob:
    """A job as our worker holds it."""
    return ActiveJob(queue="queue", id="17", token=TOKEN, name="work", data=b"null", opts=opts)


def as_bullmq_job(job: ActiveJob) -> Any:
    """The same job as bullmq's Python holds it, its worker's options included."""
    return SimpleNamespace(
        id=job.id,
        opts=job.opts,
        attempts=job.opts.get("attempts", 0),
        attemptsMade=job.attempts_made,
        queue=SimpleNamespace(opts={"lockDuration": LOCK_MS}),
    )


def readable(call: Call | None) -> tuple[str, list[str], list[Any]]:
    """A call with its packed arguments opened, and what is absent or null left out of them."""
    assert call is not None
    return call.script, list(call.keys), [_opened(arg) for arg in call.args]


def _opened(arg: Any) -> Any:
    value = msgpack.unpackb(arg) if isinstance(arg, bytes) else arg
    if isinstance(value, Mapping):
        return {name: each for name, each in value.items() if each is not None}
    # redis-py and our own link both send numbers as their text.
    return str(value) if isinstance(value, int) else value


@pytest.mark.parametrize(("name", "keys"), PINNED.items())
def test_each_script_has_the_number_of_keys_that_we_build(name: str, keys: int) -> None:
    """Each script is there once, under its name with its number of KEYS."""
    found = scripts.script(name)

    assert found.keys == keys


@pytest.mark.parametrize("name", sorted(PINNED.keys() - NOT_RUN_BY_BULLMQ))
def test_each_script_is_the_one_that_bullmq_runs(name: str) -> None:
    """The file that we load is the one that bullmq's Python registers under that name."""
    found = scripts.script(name)

    assert SCRIPT_DEFINITIONS.get(name, f"{name}-{PINNED[name]}.lua") == f"{name}-{found.keys}.lua"


def test_every_script_that_the_library_runs_is_pinned() -> None:
    """No module names a script that this test does not pin."""
    package = Path(next(iter(convolab_worker.__path__)))
    named = re.compile(r"""(?:\bscript|\bCall)\(\s*"(\w+)\"""")

    own = {file.stem.rpartition("-")[0] for file in package.glob("bullmq/lua/*.lua")}
    sources = [file.read_text() for file in package.rglob("*.py")]
    included = [file.read_text() for file in package.glob("bullmq/lua/*.lua")]

    found = {name for source in sources for name in named.findall(source)}
    found |= {name for text in included for name in re.findall(r'--- @include "(\w+)"', text)}

    assert found - own - PINNED.keys() == set()
    assert {"moveToActive", "moveToFinished"} <= found


def test_the_installed_bullmq_is_of_the_tested_range() -> None:
    """What is installed is a 3.4: other releases have other scripts and arguments."""
    version = importlib.metadata.version("bullmq")

    assert version.startswith("3.4.")


def test_keys_are_named_as_bullmq_names_them() -> None:
    """Every key that we name has bullmq's name."""
    ours, theirs = QueueKeys("prefix", "queue"), TheirKeys("prefix")
    known = theirs.getKeys("queue")

    assert {suffix: ours[suffix] for suffix in known if suffix != "de"} == {
        suffix: key for suffix, key in known.items() if suffix != "de"
    }
    assert ours.job("17") == theirs.toKey("queue", "17")


def test_options_are_stored_under_the_short_names_that_we_read() -> None:
    """The table of short names of job options is bullmq's."""
    assert bullmq.job.optsDecodeMap == job_options.LONG_NAMES


def test_refusals_have_the_codes_that_we_read() -> None:
    """The negative codes mean what bullmq says they mean."""
    expected = {
        "JobNotExist": records.JOB_MISSING,
        "JobLockNotExist": records.LOCK_MISSING,
        "JobNotInState": records.NOT_ACTIVE,
        "JobPendingDependencies": records.PENDING_CHILDREN,
        "JobLockMismatch": records.LOCK_OF_ANOTHER,
        "JobHasFailedChildren": records.FAILED_CHILDREN,
    }

    assert {name: ErrorCode[name].value for name in expected} == expected


@pytest.mark.asyncio
async def test_a_take_is_built_as_bullmq_builds_it(
    ours: Transitions, theirs: Any, recorder: Recorder
) -> None:
    """``moveToActive`` gets the same keys and arguments."""
    await theirs.moveToActive(TOKEN, {"lockDuration": LOCK_MS})

    assert readable(ours.fetch(TOKEN, NOW_MS)) == readable(recorder.made)


def test_a_named_worker_adds_its_name_to_the_options_of_a_take() -> None:
    """The one option that bullmq's Python does not send: the name behind processedBy."""
    named = Transitions(QueueKeys("prefix", "queue"), worker_name="lessons", lock_ms=LOCK_MS)

    call = named.fetch(TOKEN, NOW_MS)

    assert msgpack.unpackb(call.args[2])["name"] == "lessons"
    assert "opts - name - worker name" in scripts.script("moveToActive").text
    assert "opts - name - worker name" in scripts.script("moveToFinished").text


OPTIONS: list[dict[str, Any]] = [
    {},
    {"attempts": 3, "removeOnComplete": True, "removeOnFail": True},
    {"removeOnComplete": False, "removeOnFail": False},
    {"removeOnComplete": 5, "removeOnFail": 0},
    {"removeOnComplete": {"age": 60, "count": 2}, "removeOnFail": {"count": 1}},
    {"failParentOnFailure": True},
    {"continueParentOnFailure": True},
    {"ignoreDependencyOnFailure": True},
    {"removeDependencyOnFailure": True},
]


@pytest.mark.parametrize("opts", OPTIONS, ids=str)
@pytest.mark.parametrize("fetch_next", [True, False])
def test_a_completion_is_built_as_bullmq_builds_it(
    ours: Transitions, theirs: Any, opts: dict[str, Any], *, fetch_next: bool
) -> None:
    """``moveToFinished`` gets the same keys and arguments for a result."""
    job = taken(**opts)
    keys, args = theirs.moveToCompletedArgs(
        as_bullmq_job(job), {"url": "é"}, opts.get("removeOnComplete"), TOKEN, fetch_next
    )

    made = ours.finish(job, target="completed", value=args[3], now_ms=NOW_MS, fetch_next=fetch_next)

    name, made_keys, made_args = readable(made)
    assert (name, made_keys, made_args[:8]) == readable_finish(Call(name, keys, args))
    # No fields to write, and what only our part of the script reads.
    more = "" if opts.get("removeOnComplete") in (None, False) else "1"
    assert made_args[8:] == ["", TOKEN, str(LOCK_MS), "", more]
    assert "ARGV[10]" not in scripts.bullmqs_script("moveToFinished").text


@pytest.mark.parametrize("opts", OPTIONS, ids=str)
def test_a_failure_is_built_as_bullmq_builds_it(
    ours: Transitions, theirs: Any, opts: dict[str, Any]
) -> None:
    """``moveToFinished`` gets the same keys and arguments for a failure reason and its fields."""
    job = taken(**opts)
    keys, args = theirs.moveToFailedArgs(
        as_bullmq_job(job),
        "no voice",
        opts.get("removeOnFail"),
        TOKEN,
        fetchNext=True,
        fields_to_update=FIELDS,
    )

    made = ours.finish(
        job, target="failed", value="no voice", now_ms=NOW_MS, fetch_next=True, fields=FIELDS
    )

    assert readable(made) == readable_finish(Call("moveToFinished", keys, args))


def readable_finish(call: Call) -> tuple[str, list[str], list[Any]]:
    """A finish of bullmq's, without the option that it packs and its script never reads."""
    name, keys, args = readable(call)
    del args[7]["attemptsMade"]
    assert "attemptsMade'" not in scripts.script("moveToFinished").text
    return name, keys, args


@pytest.mark.asyncio
@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("lifo", [True, False])
@pytest.mark.parametrize("state", ["failed", "completed"])
async def test_a_retry_by_hand_is_built_as_bullmq_builds_it(
    theirs: Any, recorder: Recorder, *, state: str, reset: bool, lifo: bool
) -> None:
    job = as_bullmq_job(taken(lifo=lifo))
    await theirs.reprocessJob(
        job, state, {"resetAttemptsMade": reset, "resetAttemptsStarted": reset}
    )
    ours = retry_job(QueueKeys("prefix", "queue"), "17", state, lifo=lifo, reset_attempts=reset)
    assert readable(ours) == readable(recorder.made)


@pytest.mark.asyncio
async def test_what_operators_do_is_built_as_bullmq_builds_it(
    theirs: Any, recorder: Recorder
) -> None:
    keys = QueueKeys("prefix", "queue")

    await theirs.remove("17", remove_children=True)
    assert readable(remove_job(keys, "17")) == readable(recorder.made)
    script, names, args = readable(remove_job_in(keys, "17", "failed"))
    assert script == "removeJobIn"  # ours: removeJob behind a question, is it failed still?
    assert [names.pop(), names.pop()] == [keys["id"], keys["failed"]]
    assert ("removeJob", names, args) == readable(recorder.made)
    for pause, ours in ((True, pause_queue(keys)), (False, resume_queue(keys, again=False))):
        await theirs.pause(pause=pause)
        script, names, (state, emit) = readable(ours)
        assert (script, names, [state]) == readable(recorder.made)
        assert emit == "1"  # which Python leaves to the script's default
    await theirs.cleanJobsInSet("failed", 0, 50)
    assert recorder.made is not None
    before = recorder.made.args[1]  # Python reads the clock there
    assert readable(clean_jobs(keys, "failed", before, 50)) == readable(recorder.made)


@pytest.mark.parametrize("fields", [FIELDS, None], ids=["fields", "no fields"])
@pytest.mark.parametrize("fetch_next", [True, False])
@pytest.mark.parametrize("skip_attempt", [True, False])
def test_a_delay_is_built_as_bullmq_builds_it(
    ours: Transitions,
    theirs: Any,
    fields: dict[str, str] | None,
    *,
    fetch_next: bool,
    skip_attempt: bool,
) -> None:
    """``moveToDelayed`` gets the same keys and arguments."""
    options = {
        "skipAttempt": skip_attempt,
        "fieldsToUpdate": fields,
        "fetchNext": fetch_next,
        "workerOpts": {"lockDuration": LOCK_MS},
    }
    keys, args = theirs.moveToDelayedArgs("17", NOW_MS, TOKEN, 250, options)

    made = ours.delay(
        taken(),
        delay_ms=250,
        now_ms=NOW_MS,
        skip_attempt=skip_attempt,
        fetch_next=fetch_next,
        fields=fields,
    )

    assert readable(made) == readable(Call("moveToDelayed", keys, args))


@pytest.mark.parametrize("lifo", [True, False])
def test_a_retry_is_built_as_bullmq_builds_it(
    ours: Transitions, theirs: Any, *, lifo: bool
) -> None:
    """``retryJob`` gets the same keys and arguments."""
    keys, args = theirs.retryJobArgs("17", lifo, TOKEN, {"fieldsToUpdate": FIELDS})

    made = ours.retry(taken(lifo=lifo), now_ms=NOW_MS, fields=FIELDS)

    assert readable(made) == readable(Call("retryJob", keys, args))


def test_waiting_for_children_is_built_as_bullmq_builds_it(ours: Transitions, theirs: Any) -> None:
    """``moveToWaitingChildren`` gets the same keys and arguments."""
    keys, args = theirs.moveToWaitingChildrenArgs("17", TOKEN)

    made = ours.await_children(taken(), now_ms=NOW_MS)

    assert readable(made) == readable(Call("moveToWaitingChildren", keys, args))


@pytest.mark.asyncio
async def test_the_stalled_check_is_built_as_bullmq_builds_it(
    ours: Transitions, theirs: Any, recorder: Recorder
) -> None:
    """``moveStalledJobsToWait`` gets the same keys and arguments."""
    await theirs.moveStalledJobsToWait(2, 30_000)

    made = ours.recover_stalled(max_stalled=2, now_ms=NOW_MS, interval_ms=30_000)

    assert readable(made) == readable(recorder.made)


@pytest.mark.asyncio
async def test_a_renewal_of_locks_is_built_as_bullmq_builds_it(
    ours: Transitions, theirs: Any, recorder: Recorder
) -> None:
    """``extendLocks`` gets the same keys and arguments."""
    await theirs.extendJobLocks(["17", "18"], [TOKEN, "other"], LOCK_MS)

    made = ours.extend_locks([("17", TOKEN), ("18", "other")], LOCK_MS)

    assert readable(made) == readable(recorder.made)


@pytest.mark.asyncio
async def test_progress_is_built_as_bullmq_builds_it(
    ours: Transitions, theirs: Any, recorder: Recorder
) -> None:
    """``updateProgress`` gets the same keys and arguments."""
    await theirs.updateProgress("17", {"done": 3})

    assert readable(ours.report(taken(), '{"done":3}', [])) == readable(recorder.made)


@pytest.mark.asyncio
async def test_data_is_updated_as_bullmq_updates_it(theirs: Any, recorder: Recorder) -> None:
    """``updateData`` gets the same keys and arguments."""
    await theirs.updateData("17", {"n": 2})

    made = update_data(QueueKeys("prefix", "queue"), taken(), '{"n":2}')

    assert readable(made) == readable(recorder.made)


@pytest.mark.asyncio
async def test_a_state_is_asked_for_as_bullmq_asks(theirs: Any, recorder: Recorder) -> None:
    """``getStateV2`` gets the same keys and arguments."""
    await theirs.getState("17")

    assert readable(state_of(QueueKeys("prefix", "queue"), "17")) == readable(recorder.made)


@pytest.mark.asyncio
async def test_a_schedulers_next_iteration_is_built_as_bullmq_builds_it(
    theirs: Any, recorder: Recorder
) -> None:
    """``updateJobScheduler`` gets the same keys and arguments."""
    opts = {"attempts": 3, "keepLogs": 5, "repeat": {"every": 1000, "count": 2}}
    await theirs.updateJobSchedulerNextMillis("daily", NOW_MS + 1000, '{"n":1}', opts, "17")
    job = taken()
    job.data, job.scheduler_id = b'{"n":1}', "daily"

    made = advance_scheduler(
        QueueKeys("prefix", "queue"), job, opts, next_at=NOW_MS + 1000, now_ms=NOW_MS
    )

    assert readable(replace(made, args=[*made.args[:2], '{"n":1}', *made.args[3:]])) == readable(
        recorder.made
    )


def test_children_are_dropped_as_the_script_asks() -> None:
    """bullmq's Python never calls ``removeUnprocessedChildren``: its head lists what it gets."""
    head = scripts.script("removeUnprocessedChildren").text.partition("]]")[0]

    made = drop_children(QueueKeys("p", "q"), taken())

    assert re.findall(r"(?:KEYS|ARGV)\[\d\] (.+)", head) == [
        "jobKey",
        "meta key",
        "prefix",
        "jobId",
    ]
    assert [*made.keys, *made.args] == ["p:q:17", "p:q:meta", "p:q:", "17"]


def test_a_return_is_built_as_its_script_asks() -> None:
    """``moveJobFromActiveToWait``, which bullmq's Python never calls, gets what its head lists."""
    transitions = Transitions(QueueKeys("p", "q"), worker_name=None, lock_ms=LOCK_MS)
    head = scripts.script("moveJobFromActiveToWait").text.partition("]]")[0]

    made = transitions.return_to_queue(taken())

    documented = re.findall(r"KEYS\[\d+\]\s+(\w+)", head)
    expected = [name.replace("event", "events") for name in documented]
    assert [key.removeprefix("p:q:") for key in made.keys] == expected
    assert re.findall(r"ARGV\[\d\] (.+)", head) == ["job id", "lock token", "job id key"]
    assert list(made.args) == ["17", TOKEN, "p:q:17"]


ADDED: list[dict[str, Any]] = [
    {},
    {"attempts": 3, "removeOnComplete": True, "keepLogs": 5},
    {"delay": 250},
    {"delay": 250, "priority": 3},
    {"priority": 3},
    {"lifo": True},
    {"backoff": {"type": "exponential", "delay": 20}},
    {"deduplication": {"id": "same", "ttl": 5000}},
    {"failParentOnFailure": True, "parent": {"id": "9", "queue": "prefix:course"}},
    {"continueParentOnFailure": True, "parent": {"id": "9", "queue": "prefix:course"}},
    {"ignoreDependencyOnFailure": True, "parent": {"id": "9", "queue": "prefix:course"}},
    {"removeDependencyOnFailure": True, "parent": {"id": "9", "queue": "prefix:course"}},
]


@pytest.mark.parametrize("opts", ADDED, ids=str)
@pytest.mark.asyncio
async def test_an_added_job_is_built_as_bullmq_builds_it(
    theirs: Any, recorder: Recorder, opts: dict[str, Any]
) -> None:
    """The scripts that add jobs get the same keys and arguments; options at defaults aside."""
    parent = opts.get("parent", {})
    ours = NewJob(
        id="17",
        name="work",
        data='{"text":"a"}',
        opts={name: value for name, value in opts.items() if name != "parent"},
        parent=parent.get("id"),
        parent_queue=parent.get("queue"),
    )
    queue = SimpleNamespace(backend=None, qualifiedName="prefix:queue")
    job = bullmq.job.Job(queue, "work", {"text": "a"}, {**opts, "timestamp": NOW_MS}, "17")

    await theirs.addJob(job)

    assert readable_add(add_job(QueueKeys("prefix", "queue"), ours, NOW_MS)) == readable_add(
        recorder.made
    )


def readable_add(call: Call | None) -> tuple[str, list[str], list[Any]]:
    """The call without what adds nothing: options at their default, and bullmq's last argument.

    bullmq's Python sends the timestamp (or the delay) once more, which no script reads.
    """
    name, keys, args = readable(call)
    packed, data, opts = args[:3]
    assert "ARGV[4]" not in scripts.script(name).text
    defaults = ({"delay": 0}, {"timestamp": NOW_MS})
    kept = {key: value for key, value in opts.items() if {key: value} not in defaults}
    return name, keys, [packed, data, kept]
