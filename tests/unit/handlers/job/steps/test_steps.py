"""Steps: known by their names, called once, read back as what their functions say they return."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from convolab_worker import Child, Exponential, HandlerRegistry, Job, Settings, SyncJob
from convolab_worker.errors import (
    ConfigurationError,
    InvalidResult,
    JobTimeout,
    RateLimited,
    RetryLater,
    UnrecoverableError,
)
from convolab_worker.testing import run_handler

pytestmark = pytest.mark.asyncio
SOON = 10.0


@dataclass
class Speech:
    """What a voice costs money for."""

    url: str
    seconds: float


class Provider:
    """Counts the calls that would be paid for, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.calls: list[Any] = []
        self.failures = failures

    def _take(self, call: Any) -> None:
        self.calls.append(call)
        if self.failures:
            self.failures -= 1
            msg = "busy"
            raise ConnectionError(msg)

    async def speak(self, text: str, *, speed: float = 1.0) -> Speech:
        """An async call."""
        self._take((text, speed))
        await asyncio.sleep(0)
        return Speech(f"https://voice/{text}", 2)

    def draw(self, text: str) -> str:
        """A plain call."""
        self._take((text, threading.get_ident()))
        return f"https://picture/{text}"


def handling(function: Callable[[SyncJob[Any]], Any]) -> HandlerRegistry:
    """A registry whose job ``work`` runs the function."""
    handlers = HandlerRegistry()
    handlers.course("work", attempts=5)(function)
    return handlers


async def test_the_first_run_gets_what_a_later_one_would() -> None:
    provider, got = Provider(), list[Speech]()

    async def work(job: Job[Any]) -> None:
        got.append(await job.step("speech", provider.speak, "hello", speed=1.5))

    first = await run_handler(handling(work), "work")
    await run_handler(handling(work), "work", steps=first.steps)

    assert first.steps == {"speech": {"url": "https://voice/hello", "seconds": 2}}
    assert got == [Speech("https://voice/hello", 2.0)] * 2
    assert [type(speech.seconds) for speech in got] == [float, float]
    assert provider.calls == [("hello", 1.5)]


async def test_steps_may_run_at_once_in_any_order() -> None:
    provider = Provider()

    async def work(job: Job[Any]) -> list[str]:
        lines = ["c", "a", "b"]
        speeches = await asyncio.gather(
            *[job.step(f"line-{line}", provider.speak, line) for line in lines]
        )
        return [speech.url for speech in speeches]

    first = await run_handler(handling(work), "work", steps={"line-b": {"url": "b", "seconds": 1}})

    assert first.result == ["https://voice/c", "https://voice/a", "b"]
    assert sorted(provider.calls) == [("a", 1.0), ("c", 1.0)]


async def test_a_name_that_is_used_twice_in_one_run_is_refused() -> None:
    provider = Provider()

    async def work(job: Job[Any]) -> None:
        for line in ("a", "b"):
            await job.step("line", provider.speak, line)

    with pytest.raises(ConfigurationError, match=r"step 'line' twice in one run.*f'line-\{number"):
        await run_handler(handling(work), "work")

    assert provider.calls == [("a", 1.0)]


async def test_a_step_inside_a_step_is_refused() -> None:
    async def work(job: Job[Any]) -> None:
        async def outer() -> str:
            return await asyncio.create_task(job.step("inner", str, 1))

        await job.step("outer", outer)

    with pytest.raises(ConfigurationError, match="step 'inner' inside the step 'outer'"):
        await run_handler(handling(work), "work")


@pytest.mark.parametrize("name", ["", 7, None, "x" * 201, "a\ud800"], ids=repr)
async def test_a_name_that_can_not_be_is_refused(name: Any) -> None:
    async def work(job: Job[Any]) -> None:
        await job.step(name, str, 1)

    with pytest.raises(ConfigurationError, match="expected a name of 1 to 200 characters"):
        await run_handler(handling(work), "work")


async def test_a_call_in_place_of_a_function_is_refused() -> None:
    provider = Provider()

    async def work(job: Job[Any]) -> None:
        await job.step("speech", provider.speak("hello"))  # type: ignore[call-overload]

    with pytest.raises(ConfigurationError, match="expected a function and then its arguments"):
        await run_handler(handling(work), "work")

    assert provider.calls == []


async def test_only_results_are_kept() -> None:
    """What failed runs again, with the next attempt or in the same run."""
    provider = Provider(failures=2)

    async def work(job: Job[Any]) -> str:
        await job.step("picture", str, 1)
        try:
            return (await job.step("speech", provider.speak, "a")).url
        except ConnectionError:
            return (await job.step("speech", provider.speak, "b")).url

    first = await run_handler(handling(work), "work", raises=False)
    second = await run_handler(handling(work), "work", attempt=2, steps=first.steps)

    assert (first.outcome, first.steps) == ("retried", {"picture": "1"})
    assert second.result == "https://voice/a"
    assert [text for text, _ in provider.calls] == ["a", "b", "a"]


async def test_a_step_may_have_attempts_of_its_own() -> None:
    provider = Provider(failures=2)

    async def work(job: Job[Any]) -> int:
        await job.step("speech", provider.speak, "a", attempts=3, backoff=Exponential(0.001))
        return job.attempt

    with capture_logs() as logs:
        assert (await run_handler(handling(work), "work")).result == 1

    assert len(provider.calls) == 3
    assert [line["step"] for line in logs if line["event"] == "job.step_retried"] == ["speech"] * 2


@pytest.mark.parametrize(
    "error", [UnrecoverableError("no"), RetryLater(5), RateLimited(5)], ids=repr
)
async def test_what_is_no_failure_of_the_call_is_not_tried_again_by_the_step(
    error: Exception,
) -> None:
    calls = []

    async def work(job: Job[Any]) -> None:
        async def ask() -> None:
            calls.append(1)
            async with asyncio.TaskGroup() as group:
                group.create_task(refuse())

        async def refuse() -> None:
            raise error

        await job.step("ask", ask, attempts=3)

    run = await run_handler(handling(work), "work", raises=False)

    assert calls == [1]
    assert run.outcome == {UnrecoverableError: "failed", RetryLater: "postponed"}.get(
        type(error), "rate_limited"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"attempts": 0}, "attempts=0.*1 or more"),
        ({"attempts": 2, "backoff": "polite"}, "unknown strategy 'polite'"),
        ({"backoff": 5}, "a backoff is for further attempts"),
        ({"timeout": 0}, "timeout=0: expected seconds above 0"),
        ({"timeout": True}, "timeout=True"),
    ],
    ids=str,
)
async def test_options_that_can_not_be_are_refused_before_anything_is_called(
    options: dict[str, Any], expected: str
) -> None:
    provider = Provider()

    async def work(job: Job[Any]) -> None:
        await job.step("picture", provider.draw, "a", **options)

    with pytest.raises(ConfigurationError, match=expected):
        await run_handler(handling(work), "work")

    assert provider.calls == []


async def test_an_option_that_the_function_can_take_too_is_refused() -> None:
    """Whoever writes it means one of the two; both can be said."""
    waited = []

    async def get(url: str, timeout: float = 5) -> str:
        waited.append(timeout)
        return url

    async def work(job: Job[Any]) -> None:
        await job.step("get", get, "url", timeout=9)

    async def said(job: Job[Any]) -> None:
        await job.step("get", functools.partial(get, timeout=9), "url")
        await job.step("again", lambda: get("url"), timeout=9)

    with pytest.raises(ConfigurationError, match=r"both .* take timeout=.*functools.partial"):
        await run_handler(handling(work), "work")
    await run_handler(handling(said), "work")

    assert waited == [9, 5]


async def wait_async(seconds: float) -> None:
    """An async call that takes long."""
    await asyncio.sleep(seconds)


@pytest.mark.parametrize("is_threaded", [False, True], ids=["in the loop", "in a thread"])
@pytest.mark.parametrize("function", [wait_async, time.sleep], ids=["async", "plain"])
async def test_a_steps_time_out_fails_its_call(
    is_threaded: bool,  # noqa: FBT001
    function: Callable[[float], Any],
) -> None:
    async def in_loop(job: Job[Any]) -> None:
        await job.step("slow", function, 30 if function is wait_async else 0.5, timeout=0.05)

    def in_thread(job: SyncJob[Any]) -> None:
        job.step("slow", function, 30 if function is wait_async else 0.5, timeout=0.05)

    handler = in_thread if is_threaded else in_loop
    with pytest.raises(JobTimeout, match="step 'slow' ran longer than its time-out of 0.05 s"):
        await run_handler(handling(handler), "work")


async def test_a_plain_function_does_not_block_the_loop_of_an_async_handler() -> None:
    provider = Provider()
    here = threading.get_ident()

    async def work(job: Job[Any]) -> str:
        return await job.step("picture", provider.draw, "a")

    assert (await run_handler(handling(work), "work")).result == "https://picture/a"
    assert provider.calls[0][1] != here


async def test_a_handler_in_a_thread_needs_no_await() -> None:
    """Plain functions run in its own thread, async ones in the worker's loop."""
    provider, idents = Provider(), list[int]()
    here = threading.get_ident()

    async def which() -> int:
        return threading.get_ident()

    def work(job: SyncJob[Any]) -> Any:
        idents.append(threading.get_ident())
        speech = job.step("speech", provider.speak, "a")
        picture = job.step("picture", provider.draw, "a")
        job.update_data({"more": 1})
        return [speech.url, picture, job.step("which", which), job.children_results(), job.data]

    run = await run_handler(handling(work), "work", children_results={"part": 1})

    assert run.result == [
        "https://voice/a", "https://picture/a", here, {"part": 1}, {"more": 1},
    ]  # fmt: skip
    assert provider.calls[1] == ("a", idents[0])
    assert run.updated == {"more": 1}


async def test_a_thread_with_a_loop_of_its_own_awaits_as_usual() -> None:
    provider = Provider()

    def work(job: Job[Any]) -> str:
        async def inner() -> str:
            return (await job.step("speech", provider.speak, "a")).url

        return asyncio.run(inner())

    assert (await run_handler(handling(work), "work")).result == "https://voice/a"


async def test_children_may_be_asked_for_from_a_thread() -> None:
    def work(job: SyncJob[Any]) -> None:
        job.enqueue_children([Child("part")])

    run = await run_handler(handling(work), "work")

    assert [child.name for child in run.children] == ["part"]


async def test_a_kept_result_that_is_not_of_the_type_any_more_is_an_error() -> None:
    """It names the step and the type; nothing is called a second time in silence."""
    provider = Provider()

    async def work(job: Job[Any]) -> None:
        await job.step("speech", provider.speak, "a")

    with pytest.raises(
        InvalidResult,
        match=r"step 'speech': its recorded result is not of type Speech: result\.seconds",
    ):
        await run_handler(handling(work), "work", steps={"speech": {"url": "a", "seconds": "2 s"}})

    assert provider.calls == []


async def as_bytes() -> bytes:
    """What no JSON can hold."""
    raise AssertionError


async def as_set() -> Any:
    """Likewise, but it does not say so."""
    return {1}


async def test_a_result_that_json_can_not_hold_is_an_error_with_advice() -> None:
    """Where the annotation says so, before the call."""

    async def asks(job: Job[Any]) -> None:
        await job.step("sound", as_bytes)

    async def gets(job: Job[Any]) -> None:
        await job.step("sound", as_set)

    with pytest.raises(ConfigurationError, match="step 'sound'.*bytes.*return its address"):
        await run_handler(handling(asks), "work")
    with pytest.raises(InvalidResult, match="step 'sound'.*return its address"):
        await run_handler(handling(gets), "work")


async def test_large_results_are_warned_of_and_refused_beyond_the_limit() -> None:
    """The step, the bytes, and what to do are named; nothing beyond the limit is written."""
    settings = Settings(step_size_warning=1000, step_size_limit=3000)

    async def work(job: Job[Any]) -> None:
        await job.step("small", str, "x" * 900)
        await job.step("large", str, "é" * 500)
        await job.step("larger", str, "x" * 2000)

    with capture_logs() as logs:
        run = await run_handler(handling(work), "work", settings=settings, raises=False)

    warned = [line for line in logs if line["event"] == "job.step_large"]
    assert [(line["step"], line["bytes"]) for line in warned] == [("large", 1002)]
    assert "address" in warned[0]["hint"]
    assert run.outcome == "failed"
    assert run.reason is not None
    assert "step 'larger': its result has 2002 bytes" in run.reason
    assert "3906: expected 3000 at most" in run.reason
    assert [*run.steps] == ["small", "large"]


async def test_a_steps_key_is_the_same_in_every_run_and_no_other_jobs() -> None:
    keys = []

    async def work(job: Job[Any]) -> None:
        keys.append([job.step_key("speech"), job.step_key("picture")])

    for job_id, attempt in (("a", 1), ("a", 2), ("b", 1)):
        await run_handler(handling(work), "work", job_id=job_id, attempt=attempt)

    assert keys[0] == keys[1]
    assert len({*keys[0], *keys[2]}) == 4
    assert all(len(key) == 32 for pair in keys for key in pair)


async def test_a_step_that_was_renamed_runs_anew_and_one_that_was_removed_is_ignored() -> None:
    provider = Provider()

    async def work(job: Job[Any]) -> None:
        await job.step("voice", provider.speak, "a")

    run = await run_handler(handling(work), "work", steps={"speech": 1, "gone": {"a": 1}})

    assert provider.calls == [("a", 1.0)]
    assert {*run.steps} == {"speech", "gone", "voice"}


async def test_the_function_may_be_anything_that_can_be_called() -> None:
    """Its annotation is found below what wraps it; a class stands for itself."""

    def later(text: str) -> Awaitable[Speech]:
        return Provider().speak(text)

    async def work(job: Job[Any]) -> list[str]:
        found = [
            await job.step("partial", functools.partial(Provider().speak, speed=2), "a"),
            await job.step("class", Speech, "b", 1),
            await job.step("later", later, "c"),
            await job.step("unknown", lambda: Speech("d", 1)),
            await job.step("built-in", max, 1, 2),
        ]
        return [type(each).__name__ for each in found]

    run = await run_handler(handling(work), "work")

    assert run.result == ["Speech", "Speech", "Speech", "dict", "int"]


async def test_a_job_tells_how_often_it_was_started() -> None:
    async def work(job: Job[Any]) -> list[int]:
        return [job.attempt, job.starts]

    first = await run_handler(handling(work), "work", attempt=2)
    second = await run_handler(handling(work), "work", attempt=2, starts=4)

    assert [first.result, second.result] == [[2, 2], [2, 4]]
