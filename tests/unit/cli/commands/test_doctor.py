"""Each verdict of ``doctor``: what is well, what is not, and what the server does not say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convolab_worker.bullmq.protocol.records import read_restrictions
from convolab_worker.cli.commands.doctor import app_checks, checks
from convolab_worker.cli.commands.doctor.checks import FAILURE, OK, UNKNOWN, WARNING, Finding
from convolab_worker.cli.commands.doctor.waiting import Refusal


def kept(jobs: int, bytes: int | None, is_bounded: bool = False) -> Finding:  # noqa: A002, FBT001, FBT002
    """The finding on a queue that keeps so many completed jobs."""
    ended = app_checks.Ended(state="completed", jobs=jobs, bytes=bytes, is_bounded=is_bounded)
    finding = app_checks.history("q", [ended])
    assert finding is not None
    return finding


def stream(entries: int, bytes: int) -> Finding:  # noqa: A002
    """The finding on a queue with so many events."""
    finding = app_checks.events(
        "q", app_checks.EventStream(entries=entries, bytes=bytes, most=10_000)
    )
    assert finding is not None
    return finding


def unserved(waiting: int, *, is_woken: bool = False) -> Finding:
    """The finding on a queue that nobody listens to."""
    return app_checks.unserved("q", waiting, ["render"], is_woken=is_woken)


def failed(recent: int) -> Finding:
    """The finding on a queue with such failures."""
    finding = app_checks.failed("q", recent)
    assert finding is not None
    return finding


def unreachable() -> Finding:
    """The finding on a handler of another queue."""
    finding = app_checks.unreachable([("jobs.py:7", "c")], ["a", "b"])
    assert finding is not None
    return finding


VERDICTS: list[tuple[Callable[[], Finding], str, str]] = [
    (lambda: checks.server({"redis_version": "7.0.15"}), OK, "Redis 7.0.15"),
    (lambda: checks.server({"redis_version": "6.2.0"}), OK, "Redis 6.2.0"),
    (lambda: checks.server({"redis_version": "6.0.16"}), FAILURE, "Redis 6.0.16"),
    (lambda: checks.server({"redis_version": "10.1.0"}), OK, "Redis 10.1.0"),
    (
        lambda: checks.server(
            {"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.0"}
        ),
        OK,
        "Valkey 9.1.0",
    ),
    (
        lambda: checks.server({"redis_version": "7.4.0", "dragonfly_version": "df-v1.30"}),
        WARNING,
        "Dragonfly df-v1.30",
    ),
    (lambda: checks.server(None), UNKNOWN, "does not say"),
    (lambda: checks.role({"role": "master"}), OK, "master"),
    (lambda: checks.role({"role": "slave"}), FAILURE, "replica"),
    (lambda: checks.role({}), UNKNOWN, "does not say"),
    (lambda: checks.eviction("noeviction", 100), OK, "noeviction"),
    (lambda: checks.eviction("allkeys-lru", 100), FAILURE, "allkeys-lru"),
    (lambda: checks.eviction("allkeys-lru", 0), WARNING, "allkeys-lru"),
    (lambda: checks.eviction(None, None), UNKNOWN, "does not say"),
    (lambda: checks.memory(50 << 20, 100 << 20), OK, "50 MiB used of 100 MiB (50%)"),
    (lambda: checks.memory(85 << 20, 100 << 20), WARNING, "85%"),
    (lambda: checks.memory(99 << 20, 100 << 20), FAILURE, "99%"),
    (lambda: checks.memory(50 << 20, 0), OK, "no limit"),
    (lambda: checks.memory(None, 0), UNKNOWN, "does not say"),
    (lambda: checks.connections(10, 10_000), OK, "10 of 10000"),
    (lambda: checks.connections(18, 20), WARNING, "18 of 20"),
    (lambda: checks.connections(20, 20), FAILURE, "20 of 20"),
    (lambda: checks.connections(1, None), UNKNOWN, "does not say"),
    (lambda: checks.persistence(True), OK, "append-only file"),  # noqa: FBT003
    (lambda: checks.persistence(False), WARNING, "no append-only file"),  # noqa: FBT003
    (lambda: checks.persistence(None), UNKNOWN, "does not say"),
    (lambda: checks.idle_timeout(0, 1800), OK, "never"),
    (lambda: checks.idle_timeout(3600, 1800), OK, "3600 s"),
    (lambda: checks.idle_timeout(300, 1800), WARNING, "300 s"),
    (lambda: checks.idle_timeout(None, 1800), UNKNOWN, "does not say"),
    (lambda: checks.round_trip([0.001, 0.002, 0.003], 10), OK, "2.0 ms at the median, 3.0 ms"),
    (lambda: checks.round_trip([0.06, 0.07, 0.08], 10), WARNING, "70.0 ms"),
    (lambda: checks.round_trip([0.01, 0.01, 6.0], 10), FAILURE, "6000.0 ms at worst"),
    (lambda: checks.clock(0.2), OK, "+0.20 s"),
    (lambda: checks.clock(-3.0), WARNING, "-3.00 s"),
    (lambda: checks.clock(None), UNKNOWN, "does not say"),
    (lambda: kept(jobs=5, bytes=2**20), OK, "5 completed (1.0 MiB) kept for ever"),
    (lambda: kept(jobs=1000, bytes=2**20), WARNING, "1,000 completed (1.0 MiB) kept for ever"),
    (lambda: kept(jobs=5, bytes=20 * 2**20), WARNING, "5 completed (20.0 MiB) kept for ever"),
    (lambda: kept(jobs=5000, bytes=None), WARNING, "5,000 completed (a size that the server does"),
    (
        lambda: kept(jobs=5000, bytes=2**30, is_bounded=True),
        OK,
        "5,000 completed (1,024.0 MiB) kept within bounds",
    ),
    (lambda: stream(entries=100, bytes=2**20), OK, "100 entries, 1.0 MiB; 100.0 MiB with as many"),
    (lambda: stream(entries=12_000, bytes=2**25), WARNING, "12,000 entries, 32.0 MiB"),
    (lambda: checks.blocking(1.0, 1.05), OK, "to last 1 s, and lasted 1.1 s"),
    (lambda: checks.blocking(1.0, 0.3), FAILURE, "to last 1 s, and lasted 0.3 s"),
    (lambda: checks.blocking(1.0, None), FAILURE, "cut or refused"),
    (lambda: checks.scripts(None), OK, "cmsgpack"),
    (lambda: checks.scripts("NOPERM no eval"), FAILURE, "NOPERM"),
    (lambda: checks.permissions("me", []), OK, "me has every permission"),
    (lambda: checks.permissions("me", ["+lpos", "~bull:*"]), FAILURE, "me lacks +lpos ~bull:*"),
    (lambda: checks.permissions(None, None), UNKNOWN, "7.0"),
    (lambda: checks.cluster(False, "bull"), OK, "no cluster"),  # noqa: FBT003
    (lambda: checks.cluster(True, "bull"), FAILURE, "a cluster"),  # noqa: FBT003
    (lambda: checks.cluster(True, "{bull}"), OK, "a cluster"),  # noqa: FBT003
    (lambda: checks.cluster(None, "bull"), UNKNOWN, "does not say"),
    (lambda: checks.lock(60, 10), OK, "60 s"),
    (lambda: checks.lock(15, 10), WARNING, "15 s"),
    (lambda: checks.billing("localhost", None), OK, "no provider"),
    (lambda: checks.billing("eu1-x.upstash.io", None), WARNING, "Upstash"),
    (lambda: checks.billing("eu1-x.upstash.io", 10_000), OK, "Upstash"),
    (lambda: app_checks.queue_version("q", None), OK, "no BullMQ version is recorded"),
    (lambda: app_checks.queue_version("q", "bullmq:6.7.0"), OK, "BullMQ 6.7.0"),
    (lambda: app_checks.queue_version("q", "bullmq:5.81.5"), WARNING, "BullMQ 5.81.5"),
    (lambda: app_checks.queue_version("q", "bullmq-pro:8.1"), WARNING, "bullmq-pro:8.1"),
    (
        lambda: app_checks.unhandled("q", ["a", "b"], ["a", "b", "c"]),
        OK,
        "one for each waiting job",
    ),
    (
        lambda: app_checks.unhandled("q", ["a", "x", "x"], ["a"]),
        FAILURE,
        "no handler for: x",
    ),
    (lambda: unserved(3), WARNING, "3 jobs wait, and no worker is connected"),
    (lambda: unserved(1), WARNING, "1 job waits, and no worker is connected"),
    (lambda: unserved(3, is_woken=True), OK, "3 jobs wait"),
    (lambda: failed(1), WARNING, "1 job failed for good in the last 24 hours"),
    (lambda: app_checks.not_looked_for(["convolab"]), UNKNOWN, "only convolab is checked"),
    (lambda: app_checks.too_many(50, 1200), UNKNOWN, "50 of 1,200 queues"),
    (unreachable, WARNING, "no queue of a, b reaches jobs.py:7 (queue c)"),
    (lambda: app_checks.refused("q", []), OK, "take the data"),
    (
        lambda: app_checks.refused("q", [Refusal("a", "1", "data.text: expected str")]),
        WARNING,
        "a 1: data.text: expected str",
    ),
    (
        lambda: app_checks.refused("q", [Refusal("a", str(n), "bad") for n in range(8)]),
        WARNING,
        "a 4: bad; 3 more",
    ),
    (lambda: app_checks.wake(None, 200), OK, "200"),
    (lambda: app_checks.wake(None, 401), FAILURE, "refused (401)"),
    (lambda: app_checks.wake(None, 404), FAILURE, "404"),
    (lambda: app_checks.wake("not reached: no route", None), FAILURE, "not reached"),
]


@pytest.mark.parametrize(("judge", "verdict", "found"), VERDICTS)
def test_each_verdict_says_what_was_found(
    judge: Callable[[], Finding], verdict: str, found: str
) -> None:
    """The verdict is right, and what is not well comes with a why and an advice."""
    finding = judge()

    assert finding.verdict == verdict
    assert found in finding.found
    if verdict in {WARNING, FAILURE}:
        assert finding.why
        assert finding.advice


def test_jobs_in_the_old_paused_list_are_a_failure_and_none_are_no_line() -> None:
    """Only where there are such jobs is there something to say."""
    assert app_checks.paused_list("q", 0) is None
    finding = app_checks.paused_list("q", 3)
    assert finding is not None
    assert (finding.verdict, finding.found[:6]) == (FAILURE, "3 jobs")


def test_the_advice_for_missing_permissions_is_the_command_that_grants_them() -> None:
    """To be copied."""
    finding = checks.permissions("worker", ["+lpos", "+client|kill"])

    assert finding.advice == "ACL SETUSER worker +lpos +client|kill"


def test_the_advice_for_a_cluster_is_the_prefix_with_a_hash_tag() -> None:
    """What to set, not only what is wrong."""
    assert "{jobs}" in checks.cluster(True, "jobs").advice  # noqa: FBT003


def test_the_advice_names_the_queue_and_the_handlers_that_its_jobs_need() -> None:
    """A worker without them fails the jobs for good, so "move them" alone would be harmful."""
    paused = app_checks.paused("q", read_restrictions([b"1", None]), 2)

    assert paused is not None
    assert paused.found == "it is paused, and 2 jobs wait"
    assert paused.advice == "resume it: convolab-worker queue resume --queue q"
    assert unserved(3).advice == (
        "start a worker with handlers for: render. Move the jobs only to a queue whose worker has "
        "these handlers: convolab-worker migrate --from q --to …"
    )
    assert "failed list --queue q" in failed(1).advice
    old = app_checks.paused_list("q", 3)
    assert old is not None
    assert "migrate --from q --to …" in old.advice


def test_what_is_well_is_not_spoken_of() -> None:
    assert app_checks.failed("q", 0) is None
    assert app_checks.unreachable([], ["a"]) is None
