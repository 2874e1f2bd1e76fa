"""Refusals: what Redis's errors mean, and what an operator is told to do about them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from convolab_worker.connection.commands.error_replies import explain, meaning

# What servers and providers answer, and a word of the advice that is given.
REFUSALS = [
    ("WRONGPASS invalid username-password pair or user is disabled.", "password"),
    ("NOAUTH Authentication required.", "password"),
    ("ERR invalid password", "password"),
    ("NOPERM this user has no permissions to run the 'evalsha' command", "permission"),
    ("LOADING Redis is loading the dataset in memory", "loading"),
    ("READONLY You can't write against a read only replica.", "primary"),
    ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "primary"),
    ("CLUSTERDOWN Hash slot not served", "cluster"),
    ("MOVED 3999 127.0.0.1:6381", "CONVOLAB_PREFIX"),
    ("ASK 3999 127.0.0.1:6381", "once they are there"),
    ("TRYAGAIN Multiple keys request during rehashing of slot", "once they are there"),
    ("CROSSSLOT Keys in request don't hash to the same slot", "CONVOLAB_PREFIX"),
    ("OOM command not allowed when used memory > 'maxmemory'.", "maxmemory"),
    ("MISCONF Redis is configured to save RDB snapshots, but it's unable to persist", "disk"),
    ("BUSY Redis is busy running a script. You can only call SCRIPT KILL", "SCRIPT KILL"),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", "type"),
    ("NOREPLICAS Not enough good replicas to write.", "replica"),
    ("ERR max requests limit exceeded. Limit: 500000, Usage: 500000.", "quota"),
    ("ERR max daily request limit exceeded. Limit: 10000, Usage: 10000.", "quota"),
    ("ERR max number of clients reached", "maxclients"),
    ("ERR unknown command 'EVALSHA', with args beginning with:", "6.2"),
    ("ERR unknown subcommand 'NO-TOUCH'", "6.2"),
]


@pytest.mark.parametrize(("error", "advice"), REFUSALS, ids=[text[:18] for text, _ in REFUSALS])
def test_a_known_refusal_comes_with_what_mends_it(error: str, advice: str) -> None:
    """The sentence has the server, its own words, and what to do."""
    said = explain(error, "db.example:6379")

    assert said.startswith(f"Redis at db.example:6379 refuses: {error} -- ")
    assert advice in said.partition(" -- ")[2]


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        pytest.param(
            "ERR Error running script (call to f_1a2b): @user_script:45: @user_script: 45: "
            "-OOM command not allowed when used memory > 'maxmemory'.",
            "maxmemory",
            id="redis-6-out-of-memory",
        ),
        pytest.param(
            "ERR Error running script (call to f_1a2b): @user_script:45: -READONLY You can't "
            "write against a read only replica.",
            "primary",
            id="redis-6-replica",
        ),
        pytest.param(
            "ERR Error running script (call to f_1a2b): @user_script:12: WRONGTYPE Operation "
            "against a key holding the wrong kind of value",
            "type",
            id="redis-6-type",
        ),
        pytest.param(
            "OOM command not allowed when used memory > 'maxmemory'. script: 1a2b, "
            "on @user_script:45.",
            "maxmemory",
            id="redis-7-out-of-memory",
        ),
    ],
)
def test_a_refusal_inside_a_script_is_understood(error: str, advice: str) -> None:
    """Older servers wrap what a command in a script ran into."""
    known = meaning(error)

    assert known is not None
    assert advice in known


@pytest.mark.parametrize(
    "error",
    [
        "ERR syntax error",
        "BUSYGROUP Consumer Group name already exists",
        "NOSCRIPT No matching script. Please use EVAL.",
        "",
    ],
)
def test_an_unknown_refusal_is_told_as_it_is(error: str) -> None:
    """No advice is better than a wrong one."""
    assert meaning(error) is None
    assert explain(error, "h:1") == f"Redis at h:1 refuses: {error}"


@given(st.text())
def test_any_text_is_explained(error: str) -> None:
    """Whatever a server or a proxy answers, its words are kept."""
    assert error in explain(error, "h:1")
