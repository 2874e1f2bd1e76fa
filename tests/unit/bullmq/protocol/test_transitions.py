"""What moves a worker's jobs from state to state, whatever options a job brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import pytest
from hypothesis import given, strategies as st

from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.bullmq.protocol.transitions import Transitions

NOW_MS = 1_700_000_000_123
KEYS = QueueKeys("bull", "audio")
OURS = Transitions(KEYS, worker_name="worker-1", lock_ms=60_000)


def active_job(opts: Mapping[str, Any] | None = None, job_id: str = "17") -> ActiveJob:
    """A job with those options."""
    return ActiveJob(queue="audio", id=job_id, token="w:1", name="n", data=b"{}", opts=opts or {})


def finish(job: ActiveJob, target: str = "completed", **changes: Any) -> Call:
    """The call that ends ``job``."""
    options = {"value": "1", "now_ms": NOW_MS, "fetch_next": True, **changes}
    return OURS.finish(job, target=target, **options)


def packed_options(call: Call) -> dict[str, Any]:
    """The options of a finish, as its script unpacks them."""
    options: dict[str, Any] = msgpack.unpackb(call.args[7])
    return options


@pytest.mark.parametrize("job_id", ["17", "repeat:daily:1700000000000", "käse-🧀", "a b\nc"])
def test_any_job_id_is_part_of_its_keys(job_id: str) -> None:
    """Ids are never taken apart: those of scheduled jobs have colons."""
    call = finish(active_job(job_id=job_id))

    assert f"bull:audio:{job_id}" in call.keys
    assert call.args[0] == job_id


# what is kept of a finished job


@pytest.mark.parametrize(
    ("remove", "kept"),
    [
        pytest.param(None, {"count": -1}, id="unset-keeps-all"),
        pytest.param(False, {"count": -1}, id="false-keeps-all"),
        pytest.param(True, {"count": 0}, id="true-keeps-none"),
        pytest.param(0, {"count": 0}, id="0-keeps-none"),
        pytest.param(5, {"count": 5}, id="a-number-keeps-so-many"),
        pytest.param(-1, {"count": -1}, id="-1-keeps-all"),
        pytest.param({"count": 5}, {"count": 5}, id="a-count"),
        pytest.param({"age": 3600}, {"age": 3600}, id="an-age"),
        pytest.param({"age": 0.5}, {"age": 0.5}, id="an-age-below-a-second"),
        pytest.param(
            {"age": 60, "count": 2, "limit": 10}, {"age": 60, "count": 2, "limit": 10}, id="all"
        ),
        pytest.param({}, {}, id="nothing-said"),
    ],
)
@pytest.mark.parametrize(
    ("target", "option", "other"),
    [
        ("completed", "removeOnComplete", "removeOnFail"),
        ("failed", "removeOnFail", "removeOnComplete"),
    ],
)
def test_the_jobs_own_options_say_what_is_kept(
    target: str, option: str, other: str, remove: object, kept: dict[str, float]
) -> None:
    """removeOnComplete and removeOnFail mean what they mean to Node's worker, each for its end."""
    opposite = 0 if remove is None else None
    call = finish(active_job({option: remove, other: opposite}), target)

    assert packed_options(call)["keepJobs"] == kept


@pytest.mark.parametrize(
    ("remove", "kept"),
    [
        pytest.param("yes", {"count": 0}, id="text-is-true-in-javascript"),
        pytest.param("", {"count": -1}, id="empty-text-is-false"),
        pytest.param([], {}, id="list"),
        pytest.param({"count": "5", "age": "60"}, {"count": 5, "age": 60}, id="numbers-as-text"),
        pytest.param({"count": "five", "age": 60}, {"age": 60}, id="text-that-is-no-number"),
        pytest.param(1.5, {"count": 2}, id="a-part-of-a-job"),
        pytest.param({"count": -0.5, "age": 0.5}, {"count": -1, "age": 0.5}, id="parts"),
        pytest.param(2**53 + 2, {"count": 2**53}, id="more-than-lua-counts"),
        pytest.param({"count": None, "age": [1]}, {}, id="no-numbers"),
        pytest.param({"count": True}, {}, id="count-true"),
        pytest.param({"count": 10**30}, {"count": 2**53}, id="count-beyond-lua"),
        pytest.param({"count": float("nan")}, {}, id="count-nan"),
        pytest.param({"other": 1}, {}, id="unheard-of"),
    ],
)
def test_what_is_no_number_never_reaches_the_script(remove: object, kept: dict[str, float]) -> None:
    """The script would stop half-way on it, with the job out of active and not yet written."""
    call = finish(active_job({"removeOnComplete": remove}))

    assert packed_options(call)["keepJobs"] == kept


@pytest.mark.parametrize(
    ("attempts", "told"), [(3, 3), (None, 0), ("3", 3), ([], 0), ({}, 0), (10**30, 2**53), ("x", 0)]
)
def test_the_number_of_attempts_is_a_number(attempts: object, told: int) -> None:
    """The script compares it, to announce that retries are exhausted."""
    assert packed_options(finish(active_job({"attempts": attempts})))["attempts"] == told


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["count", "age", "limit", "x"]), inner)
    ),
    max_leaves=5,
)
OPTIONS = st.dictionaries(
    st.sampled_from(
        ["attempts", "removeOnComplete", "removeOnFail", "failParentOnFailure", "lifo"]
    ),
    JSON_VALUES,
)


@given(opts=OPTIONS, target=st.sampled_from(["completed", "failed"]))
def test_a_finish_can_be_built_for_any_options(opts: dict[str, Any], target: str) -> None:
    """Whatever a producer wrote into them, the job can be ended."""
    options = packed_options(finish(active_job(opts), target))

    numbers = [options["attempts"], *options["keepJobs"].values()]
    assert all(isinstance(number, (int, float)) for number in numbers)
    assert all(isinstance(options[flag], bool) for flag in ("fpof", "cpof", "idof", "rdof"))


# the rest of the arguments


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ("failParentOnFailure", "fpof"),
        ("continueParentOnFailure", "cpof"),
        ("ignoreDependencyOnFailure", "idof"),
        ("removeDependencyOnFailure", "rdof"),
    ],
)
def test_what_a_failure_does_to_the_parent_is_passed_on(option: str, flag: str) -> None:
    """Each rule has its own flag, and the others are off."""
    options = packed_options(finish(active_job({option: True}), "failed"))

    assert {name: options[name] for name in ("fpof", "cpof", "idof", "rdof")} == {
        "fpof": False,
        "cpof": False,
        "idof": False,
        "rdof": False,
        flag: True,
    }


def test_a_worker_without_a_name_sends_none() -> None:
    """processedBy stays unset."""
    nameless = Transitions(KEYS, worker_name=None, lock_ms=60_000)

    assert "name" not in msgpack.unpackb(nameless.fetch("w:1", NOW_MS).args[2])
    assert msgpack.unpackb(OURS.fetch("w:1", NOW_MS).args[2])["name"] == "worker-1"


def test_fields_are_packed_as_pairs() -> None:
    """The script sets them with one HMSET."""
    call = finish(active_job(), "failed", fields={"failedReason": "é", "stacktrace": "[]"})

    assert msgpack.unpackb(call.args[8]) == ["failedReason", "é", "stacktrace", "[]"]


@pytest.mark.parametrize(("lifo", "push"), [(True, "RPUSH"), (False, "LPUSH"), (None, "LPUSH")])
def test_a_retried_job_goes_to_its_own_end_of_the_queue(lifo: object, push: str) -> None:
    """The last in, first out ones go to the head."""
    call = OURS.retry(active_job({"lifo": lifo}), now_ms=NOW_MS, fields={})

    assert call.args[2] == push


@pytest.mark.parametrize(
    ("progress", "rows", "script_name", "args"),
    [
        ("50", [], "updateProgress", ["17", "50"]),
        (None, ["a", "b"], "addLogs", ["17", "", "", "a", "b"]),
        ("50", ["a"], "addLogs", ["17", "50", "", "a"]),
    ],
)
def test_a_report_is_one_call(
    progress: str | None, rows: list[str], script_name: str, args: list[object]
) -> None:
    """BullMQ's own script where there is progress alone, and ours where there are rows."""
    call = OURS.report(active_job(), progress, rows)

    assert (call.script, list(call.args)) == (script_name, args)


@pytest.mark.parametrize(
    ("keep", "told"),
    [(5, 5), (0, ""), (-1, ""), (None, ""), ("5", 5), (2.5, 2), ([], ""), (True, ""), ("x", "")],
)
def test_the_number_of_rows_to_keep_is_a_number(keep: object, told: object) -> None:
    """Anything else in the job's options keeps them all."""
    assert OURS.report(active_job({"keepLogs": keep}), None, ["a"]).args[2] == told


def test_the_next_job_is_taken_only_on_request() -> None:
    """A finish without it leaves the next job to others."""
    assert [finish(active_job(), fetch_next=asked).args[5] for asked in (True, False)] == ["1", ""]


def test_locks_are_renewed_by_id_and_token_in_step() -> None:
    """Ids that are not UTF-8, which some producer made, come out as the bytes they were."""
    call = OURS.extend_locks([("17", "w:1"), ("\udcff", "w:2")], 60_000)

    assert msgpack.unpackb(call.args[1]) == ["w:1", "w:2"]
    assert msgpack.unpackb(call.args[2], raw=True) == [b"17", b"\xff"]
