"""A call of packed parts is, byte for byte, what hiredis makes of the whole."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import hiredis
import pytest

from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.job_options import Options
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.bullmq.protocol.transitions import Limiter, Transitions

CHARACTERS = "a7:{}%d\u00e9\u4e2d\U0001f600\r\n$*\x00"


def text(chance: random.Random, most: int) -> str:
    return "".join(chance.choices(CHARACTERS, k=chance.randrange(most)))


def sent(call: Call) -> bytes:
    assert call.packed is not None
    return script(call.script).head(len(call.args)) + call.packed


def whole(call: Call) -> bytes:
    found = script(call.script)
    packed: bytes = hiredis.pack_command(
        ("EVALSHA", found.sha, len(call.keys), *call.keys, *call.args)
    )
    return packed


def job(chance: random.Random, opts: Mapping[str, Any]) -> ActiveJob:
    return ActiveJob("q", text(chance, 9), f"w:{chance.randrange(3)}", "n", b"{}", opts)


@pytest.mark.parametrize("limiter", [None, Limiter(3, 1000)], ids=["plain", "limited"])
def test_whatever_a_job_is_its_end_is_packed_as_hiredis_packs_it(limiter: Limiter | None) -> None:
    chance = random.Random(19)
    policies = [Options({}), Options({"removeOnComplete": True}), Options({"attempts": 3})]
    for name in ("q", "100%d", text(chance, 5)):
        keys = QueueKeys("bull%", name)
        transitions = Transitions(keys, worker_name="w%\u00e9", lock_ms=30_000, limiter=limiter)
        for _ in range(200):
            call = transitions.finish(
                job(chance, chance.choice(policies)),
                "completed",
                text(chance, 20),
                chance.randrange(2**41),
                fetch_next=chance.random() < 0.5,
            )
            assert sent(call) == whole(call)


def test_an_id_that_is_not_utf_8_is_packed_as_the_bytes_that_it_was() -> None:
    transitions = Transitions(QueueKeys("bull", "q"), worker_name=None, lock_ms=1)
    wrong = ActiveJob(
        "q", b"\xff7".decode("utf-8", "surrogateescape"), "t", "n", b"{}", Options({})
    )
    call = transitions.finish(wrong, "completed", "1", 1, fetch_next=False)

    assert b"\r\n$2\r\n\xff7\r\n" in sent(call)


def test_tokens_that_come_and_go_are_forgotten() -> None:
    transitions = Transitions(QueueKeys("bull", "q"), worker_name=None, lock_ms=1)
    opts = Options({})
    for number in range(3000):
        each = ActiveJob("q", "7", f"w:{number}", "n", b"{}", opts)
        assert sent(
            call := transitions.finish(each, "completed", "1", 1, fetch_next=True)
        ) == whole(call)

    assert len(transitions._ends) <= 1000  # noqa: SLF001 - what it keeps is what this is about


@pytest.mark.parametrize("more", [{"steps": {"a": b"1"}}, {}], ids=["steps", "failure"])
def test_what_few_jobs_come_to_is_packed_by_hiredis(more: dict[str, Any]) -> None:
    transitions = Transitions(QueueKeys("bull", "q"), worker_name=None, lock_ms=1)
    target = "completed" if more else "failed"
    each = ActiveJob("q", "7", "t", "n", b"{}", Options({}), **more)

    assert transitions.finish(each, target, "1", 1, fetch_next=True).packed is None
