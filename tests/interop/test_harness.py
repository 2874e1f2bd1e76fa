"""The differential suite's own yardstick: it sees what differs, and only that."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.interop.differential import Bench
from tests.interop.normalise import Gap, Near, gaps, normalise, tolerance_with
from tests.support.stopwatch import Stopwatch

JOB = {
    "name": "work",
    "data": '{"a":1}',
    "opts": '{"attempts":2}',
    "timestamp": "1700000000000",
    "processedOn": "1700000000100",
    "finishedOn": "1700000000200",
    "returnvalue": '"done"',
    "ats": "1",
    "atm": "1",
}


def raw() -> dict[str, Any]:
    """A snapshot of one completed job, as ``snapshot.mjs`` takes it."""
    events = [
        ["1700000000000-0", {"event": "added", "jobId": "1", "name": "work"}],
        ["1700000000000-1", {"event": "delayed", "jobId": "1", "delay": "1700000000050"}],
        ["1700000000100-0", {"event": "active", "jobId": "1", "prev": "waiting"}],
    ]
    return {
        "keys": {
            "run-1:work:1": {"type": "hash", "expires": False, "value": dict(JOB)},
            "run-1:work:events": {"type": "stream", "expires": False, "value": events},
            "run-1:work:completed": {
                "type": "zset",
                "expires": False,
                "value": [["1", "1700000000200"]],
            },
            "run-1:work:marker": {"type": "zset", "expires": False, "value": [["0", "0"]]},
        },
        "api": {},
        "observed": {},
    }


def compared(changed: dict[str, Any], prefix: str = "run-1") -> list[Gap]:
    """The gaps between the snapshot and a changed one."""
    return list(gaps(normalise(raw(), "run-1"), normalise(changed, prefix)))


def test_another_run_of_the_same_is_no_difference() -> None:
    """Prefix and times of day do not count, nor a wake-up marker."""
    text = json.dumps(raw()).replace("run-1", "run-2").replace("17000000000", "17000000077")
    other = json.loads(text)
    del other["keys"]["run-2:work:marker"]

    assert compared(other, "run-2") == []


@pytest.mark.parametrize("field", sorted(JOB))
def test_a_field_of_a_job_that_differs_is_found(field: str) -> None:
    """Every field of a job's hash counts, if it is changed or absent."""
    changed, absent = raw(), raw()
    changed["keys"]["run-1:work:1"]["value"][field] = '{"b":2}'
    del absent["keys"]["run-1:work:1"]["value"][field]

    assert [gap.path.split("/")[4] for gap in compared(changed)][:1] == [field]
    assert [gap.path for gap in compared(absent)] == [f"/keys/P:work:1/value/{field}"]


def test_a_key_too_many_or_too_few_is_found() -> None:
    """A lock that was left behind is a difference; so is a set that is missing."""
    locked, missing = raw(), raw()
    locked["keys"]["run-1:work:1:lock"] = {"type": "string", "expires": True, "value": "t"}
    del missing["keys"]["run-1:work:completed"]

    assert [gap.path for gap in compared(locked)] == ["/keys/P:work:1:lock"]
    assert [gap.path for gap in compared(missing)] == ["/keys/P:work:completed"]


def test_a_key_that_expires_is_not_one_that_stays() -> None:
    """Whether a key has a time to live counts."""
    expiring = raw()
    expiring["keys"]["run-1:work:1"]["expires"] = True

    assert [gap.path for gap in compared(expiring)] == ["/keys/P:work:1/expires"]


def test_events_count_in_their_order() -> None:
    """An event too many is found at its place, and so are two in another order."""
    more, swapped = raw(), raw()
    more["keys"]["run-1:work:events"]["value"].append(["1700000000300-0", {"event": "drained"}])
    events = swapped["keys"]["run-1:work:events"]["value"]
    events[1], events[2] = events[2], events[1]

    assert [(gap.path, gap.ours) for gap in compared(more)] == [
        ("/events/P:work:events/3", [{"event": "drained"}])
    ]
    assert compared(swapped)


def test_a_wait_of_another_length_is_found() -> None:
    """When a delayed job is due counts, within a tolerance."""
    later, slightly = raw(), raw()
    later["keys"]["run-1:work:events"]["value"][1][1]["delay"] = "1700000000150"
    slightly["keys"]["run-1:work:events"]["value"][1][1]["delay"] = "1700000000055"

    assert [gap.path for gap in compared(later)] == ["/events/P:work:events/1/delay"]
    assert compared(slightly) == []


def test_numbers_and_booleans_are_told_apart() -> None:
    """1, 1.0 and true are three values to who reads JSON."""
    assert [len(list(gaps(1, other))) for other in (1, 1.0, True)] == [0, 1, 1]
    assert list(gaps(Near(10), Near(30), tolerance_ms=25)) == []


def test_a_snapshot_is_not_changed_by_normalising_it() -> None:
    """The raw snapshot stays as it was taken."""
    before = raw()
    kept = copy.deepcopy(before)

    normalise(before, "run-1")

    assert before == kept


@pytest.mark.asyncio
async def test_nodes_worker_agrees_with_itself(bench: Bench, scenario: str) -> None:
    """Two runs by Node's worker show no difference: what the suite reports is about ours."""
    with Stopwatch() as watch:
        first = await bench.by_node(scenario)

        second = await bench.by_node_again(scenario)

    assert list(gaps(first, second, tolerance_with(watch))) == []
