"""A producer's and a handler's keywords: what each becomes, and what is refused before a send."""

from __future__ import annotations

from typing import Any

import pytest

from convolab_worker import Child, Deduplication, Exponential, Fixed, JobOptions
from convolab_worker.bullmq.protocol.job_options import Defaults, Options, end_options
from convolab_worker.bullmq.protocol.keywords import OPTION_KEYWORDS, check_size, job_options
from convolab_worker.errors import ConfigurationError
from convolab_worker.settings.units import parse_keep


@pytest.mark.parametrize(
    ("backoff", "option"),
    [
        (Exponential(2), {"type": "exponential", "delay": 2000, "jitter": 0.5}),
        (
            Exponential(0.5, longest=60, jitter=0),
            {"type": "exponential", "delay": 500, "maxDelay": 60_000},
        ),
        (Fixed(5), {"type": "fixed", "delay": 5000, "jitter": 0.2}),
        (Fixed(5, jitter=0), {"type": "fixed", "delay": 5000}),
        (1.5, {"type": "fixed", "delay": 1500}),
        ("polite", {"type": "polite"}),
        ({"type": "exponential", "delay": 7}, {"type": "exponential", "delay": 7}),
    ],
    ids=repr,
)
def test_a_backoff_becomes_bullmqs_object(backoff: Any, option: dict[str, Any]) -> None:
    """Seconds become milliseconds, and a named policy has jitter unless it says 0."""
    assert job_options("enqueue", {"backoff": backoff}) == {"backoff": option}


@pytest.mark.parametrize(
    ("keep", "option"),
    [
        ("none", True),
        ("all", False),
        (1000, 1000),
        ("1000", 1000),
        (0, 0),
        ("90s", {"age": 90}),
        ("1h", {"age": 3600}),
        ("2d", {"age": 172_800}),
        ("1000/1d", {"age": 86_400, "count": 1000}),
        (" 5 / 1.5h ", {"age": 5400, "count": 5}),
    ],
)
def test_what_is_kept_becomes_bullmqs_removal(keep: Any, option: Any) -> None:
    """Digits alone are a count, a unit makes an age."""
    options = job_options("enqueue", {"keep_completed": keep, "keep_failed": keep})

    assert options == {"removeOnComplete": option, "removeOnFail": option}


@pytest.mark.parametrize(
    "keep", [-1, 1.5, True, "", "-1", "1000/", "/1h", "1/2/3", "5/5", "soon", "0s", "500ms", None]
)
def test_what_can_not_be_kept_is_refused(keep: object) -> None:
    """Zero seconds, too: BullMQ would keep everything."""
    with pytest.raises(ValueError, match="expected how many jobs to keep: 1000, 1h, 1000/1d"):
        parse_keep(keep)


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ("lesson-7", {"id": "lesson-7"}),
        (Deduplication("a"), {"id": "a"}),
        (Deduplication("a", ttl=1.5), {"id": "a", "ttl": 1500}),
        (
            Deduplication("a", ttl=2, extend=True, replace=True),
            {"id": "a", "ttl": 2000, "extend": True, "replace": True},
        ),
        (Deduplication("a", keep_last_if_active=True), {"id": "a", "keepLastIfActive": True}),
    ],
    ids=repr,
)
def test_a_deduplication_becomes_bullmqs(given: Any, option: dict[str, Any]) -> None:
    """Flags that are not set are not written, as in Node's code that leaves them out."""
    assert job_options("enqueue", {"deduplication": given}) == {"deduplication": option}


def test_every_other_option_becomes_bullmqs() -> None:
    """By BullMQ's names; what is None is left out."""
    options = job_options(
        "enqueue",
        {
            "delay": 1.5,
            "priority": 3,
            "attempts": 4,
            "lifo": True,
            "keep_logs": 10,
            "stack_trace_limit": 0,
            "size_limit": 100,
            "backoff": None,
        },
    )

    assert options == {
        "delay": 1500,
        "priority": 3,
        "attempts": 4,
        "lifo": True,
        "keepLogs": 10,
        "stackTraceLimit": 0,
        "sizeLimit": 100,
    }


def test_a_type_checker_knows_every_keyword() -> None:
    """The table and the typed dictionary say the same."""
    assert {*JobOptions.__annotations__} == {*OPTION_KEYWORDS}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"attemps": 3}, r"enqueue: unknown option 'attemps'; did you mean attempts\?"),
        ({"removeOnFail": 3}, r"'removeOnFail'; BullMQ's removeOnFail is keep_failed here"),
        ({"text": "Hi"}, r"unknown option 'text'; a job's data is one argument, data"),
        ({"backoff": True}, r"enqueue\(backoff=True\): expected Exponential\(2\), Fixed\(5\)"),
        ({"backoff": ""}, "enqueue"),
        ({"backoff": -1}, "enqueue"),
        ({"lifo": 1}, r"enqueue\(lifo=1\): expected True or False"),
        ({"deduplication": ""}, "expected an id"),
        ({"keep_logs": -1}, "expected a number of rows"),
        ({"keep_failed": "soon"}, r"\(keep_failed='soon'\): expected how many jobs to keep"),
        ({"size_limit": 0}, "expected a number of bytes"),
    ],
)
def test_a_keyword_that_can_not_be_is_named(keywords: dict[str, Any], message: str) -> None:
    """With its value and what was expected."""
    with pytest.raises(ConfigurationError, match=message):
        job_options("enqueue", keywords)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Exponential(-1), "delay: expected seconds"),
        (lambda: Exponential(2, jitter=2), "jitter: expected 0 to 1"),
        (lambda: Exponential(2, longest=1), "longest: expected seconds, no fewer"),
        (lambda: Fixed("5"), "delay: expected seconds"),  # type: ignore[arg-type]
        (lambda: Deduplication(""), "expected an id"),
        (lambda: Deduplication("a", ttl=0), "ttl: expected seconds above 0"),
        (lambda: Deduplication("a", extend=True), "extend is for a ttl"),
        (lambda: Deduplication("a", ttl=1, keep_last_if_active=True), "has no ttl"),
        (lambda: Child("part", keep_failed="soon"), r"Child\(keep_failed='soon'\)"),
    ],
)
def test_a_policy_that_can_not_be_is_refused_where_it_is_made(make: Any, message: str) -> None:
    """Not by the job that would have used it, an hour later."""
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_data_beyond_its_size_limit_is_refused() -> None:
    """The limit counts bytes, as Node's does, and not characters."""
    check_size("speak", '"é"', {"sizeLimit": 4})

    with pytest.raises(ConfigurationError, match="data of speak has 4 bytes: .* size_limit, 3"):
        check_size("speak", '"é"', {"sizeLimit": 3})


# what counts where a job says nothing


HANDLERS = Defaults({"attempts": 5, "backoff": {"type": "polite"}, "removeOnFail": True})


@pytest.mark.parametrize("attempts", [{}, {"attempts": 0}, {"attempts": None}], ids=repr)
def test_what_a_job_does_not_say_its_handler_does(attempts: dict[str, Any]) -> None:
    """Producers write 0 attempts where nobody said how many."""
    opts = Options({**attempts, "delay": 5})

    assert HANDLERS.complete(opts) == {**HANDLERS.options, "delay": 5}


def test_what_a_job_says_stands() -> None:
    """Each option by itself: False keeps every failed job."""
    own = Options({"attempts": 1, "removeOnFail": False})

    completed = HANDLERS.complete(own)

    assert completed == {"attempts": 1, "backoff": {"type": "polite"}, "removeOnFail": False}
    assert own == {"attempts": 1, "removeOnFail": False}


def test_jobs_of_the_same_options_share_what_they_come_to() -> None:
    """Whatever is made of them at a job's end is made once, for each set of defaults."""
    opts, other = Options({"attempts": 0}), Defaults({"attempts": 2})

    assert HANDLERS.complete(opts) is HANDLERS.complete(opts)
    assert other.complete(opts)["attempts"] == 2
    assert end_options(HANDLERS.complete(opts), "failed")["keepJobs"] == {"count": 0}


def test_options_that_say_everything_stay_the_same_object() -> None:
    """So that nothing is made for them."""
    opts = Options({"attempts": 3})

    assert Defaults({"attempts": 2}).complete(opts) is opts
    assert Defaults({}).complete(opts) is opts
