"""A producer's calls: the calls that add standard, delayed, prioritized and child jobs."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.client_calls import NewJob, add_job
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.scripts import script

NOW_MS = 1_700_000_000_123
KEYS = QueueKeys("bull", "audio")


def added(**changes: Any) -> Call:
    """The call that adds a job."""
    return add_job(KEYS, NewJob(**{"id": "17", "name": "n", "data": "{}", **changes}), NOW_MS)


def packed_job(call: Call) -> list[Any]:
    """The job as its script unpacks it."""
    job: list[Any] = msgpack.unpackb(call.args[0])
    return job


def packed_options(call: Call) -> dict[str, Any]:
    """The job's options as they are stored."""
    options: dict[str, Any] = msgpack.unpackb(call.args[2])
    return options


@pytest.mark.parametrize(
    ("opts", "name"),
    [
        ({}, "addStandardJob"),
        ({"delay": 0, "priority": 0}, "addStandardJob"),
        ({"delay": 1}, "addDelayedJob"),
        ({"priority": 1}, "addPrioritizedJob"),
        ({"delay": 1, "priority": 1}, "addDelayedJob"),
    ],
    ids=["plain", "zeros", "delayed", "prioritized", "delayed-and-prioritized"],
)
def test_options_decide_where_a_job_is_added(opts: dict[str, Any], name: str) -> None:
    """A delayed job keeps its priority for when it falls due."""
    call = added(opts=opts)

    assert call.script == name
    assert len(call.keys) == script(name).keys
    assert all(key.startswith("bull:audio:") for key in call.keys)


def test_a_job_has_its_id_name_data_and_time() -> None:
    """The id is the producer's, so that adding again adds nothing."""
    call = added(id="mine", name="generate-audio", data='{"text":"é"}')

    assert packed_job(call) == [
        "bull:audio:", "mine", "generate-audio", NOW_MS, None, None, None, None, None,
    ]  # fmt: skip
    assert call.args[1] == '{"text":"é"}'


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("failParentOnFailure", "fpof"),
        ("continueParentOnFailure", "cpof"),
        ("ignoreDependencyOnFailure", "idof"),
        ("removeDependencyOnFailure", "rdof"),
        ("keepLogs", "kl"),
    ],
)
def test_options_are_stored_under_bullmqs_short_names(full: str, short: str) -> None:
    """What Node's worker reads is what Node's producer would have written."""
    stored = packed_options(added(opts={full: 5, "attempts": 3}))

    assert stored[short] == 5
    assert full not in stored
    assert stored["attempts"] == 3


def test_a_job_without_attempts_says_so() -> None:
    """BullMQ's scripts want the number."""
    assert packed_options(added())["attempts"] == 0


def test_a_deduplicated_job_names_its_key() -> None:
    """The script looks for the job that is there already."""
    call = added(opts={"deduplication": {"id": "lesson-7"}})

    assert packed_job(call)[8] == "bull:audio:de:lesson-7"
    assert packed_options(call)["de"] == {"id": "lesson-7"}


@pytest.mark.parametrize(
    ("opts", "flags"),
    [
        ({}, {}),
        ({"failParentOnFailure": True}, {"fpof": True}),
        ({"continueParentOnFailure": True}, {"cpof": True}),
        ({"ignoreDependencyOnFailure": True}, {"idof": True}),
        ({"removeDependencyOnFailure": True}, {"rdof": True}),
        ({"failParentOnFailure": False}, {}),
    ],
    ids=str,
)
def test_a_child_knows_its_parent_and_what_its_failure_does(
    opts: dict[str, Any], flags: dict[str, bool]
) -> None:
    """The parent may be on another queue, and have colons in its id."""
    call = added(opts=opts, parent="repeat:daily:17", parent_queue="bull:course")

    job = packed_job(call)
    assert job[4] == "bull:course:repeat:daily:17"
    assert job[5] == "bull:course:repeat:daily:17:dependencies"
    assert job[6] == {"id": "repeat:daily:17", "queueKey": "bull:course", **flags}
    assert packed_options(call)["parent"] == {"id": "repeat:daily:17", "queue": "bull:course"}


def test_the_producers_options_are_left_as_they_were() -> None:
    """One options object may be used for many jobs."""
    opts = {"keepLogs": 5}

    added(opts=opts, parent="1", parent_queue="bull:course")

    assert opts == {"keepLogs": 5}
