"""The registry: which function runs a job, how it is run, and what registering it refuses."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from convolab_worker import Exponential, Settings, Worker
from convolab_worker.errors import ConfigurationError, DuplicateHandler, InvalidPayload
from convolab_worker.handlers.job.job import Job
from convolab_worker.handlers.registration.handler import Handler
from convolab_worker.handlers.registration.registry import HandlerRegistry


@dataclass
class Request:
    """The data of a job."""

    text: str


async def on_loop(job: Job[Request]) -> str:
    """A handler in the loop."""
    return job.data.text


def in_thread(job: Job[Request]) -> str:
    """A plain handler."""
    return job.data.text


async def with_voice(voice: str, job: Job[Request]) -> str:
    """A handler that needs an argument of its own."""
    return voice + job.data.text


def with_voice_in_thread(voice: str, job: Job[Request]) -> str:
    """The same, plain."""
    return voice + job.data.text


class Speaker:
    """A callable object whose call is a coroutine."""

    async def __call__(self, job: Job[Request]) -> str:
        return job.data.text

    async def speak(self, job: Job[Request]) -> str:
        """A method to be registered."""
        return job.data.text

    def whisper(self, job: Job[Request]) -> str:
        """A plain method to be registered."""
        return job.data.text


class PlainSpeaker:
    """A callable object whose call is plain."""

    def __call__(self, job: Job[Request]) -> str:
        return job.data.text


def passed_through(function: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[str]]:
    """Decorate a coroutine function with a plain one that gives its coroutine."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Awaitable[str]:
        return function(*args)

    return wrapper


def made_async(function: Callable[..., str]) -> Callable[..., Awaitable[str]]:
    """Decorate a plain function with a coroutine function."""

    @functools.wraps(function)
    async def wrapper(*args: Any) -> str:
        return function(*args)

    return wrapper


def registered(function: Callable[..., Any], *names: str, **options: Any) -> Handler:
    """The handler that ``function`` becomes."""
    handlers = HandlerRegistry()
    handlers.audio(*(names or ("work",)), **options)(function)
    (handler,) = handlers
    return handler


# finding


@pytest.mark.parametrize("kind", ["audio", "dialogue", "image", "course"])
def test_each_kind_registers_a_function(kind: str) -> None:
    """The decorator gives the function back, with all its options in the handler."""
    handlers = HandlerRegistry()

    given_back = getattr(handlers, kind)("a", "b", queue="q", timeout=5, concurrency=2)(on_loop)

    handler = handlers.find("q", "a")
    assert given_back is on_loop
    assert handler is not None
    assert handler is handlers.find("q", "b")
    assert (handler.kind, handler.names, handler.queue) == (kind, ("a", "b"), "q")
    assert (handler.timeout, handler.concurrency, handler.function) == (5, 2, on_loop)


def test_a_handler_of_one_queue_comes_before_one_of_any() -> None:
    """Two queues may use one name for different work."""
    handlers = HandlerRegistry()
    handlers.audio("generate")(on_loop)
    handlers.image("generate", queue="images")(in_thread)

    found = {queue: handlers.find(queue, "generate") for queue in ("images", "audio")}

    assert {queue: handler and handler.kind for queue, handler in found.items()} == {
        "images": "image",
        "audio": "audio",
    }


def test_what_nobody_handles_is_not_found() -> None:
    """Neither another name, nor the name on another queue."""
    handlers = HandlerRegistry()
    handlers.image("generate", queue="images")(on_loop)

    assert handlers.find("images", "other") is None
    assert handlers.find("audio", "generate") is None


def test_names_are_told_by_queue() -> None:
    """What a queue's jobs may be called, sorted, for the message about one that nobody handles."""
    handlers = HandlerRegistry()
    handlers.audio("speak", "say")(on_loop)
    handlers.image("draw", queue="images")(in_thread)

    assert handlers.names_on("images") == ["draw", "say", "speak"]
    assert handlers.names_on("audio") == ["say", "speak"]


def test_a_handler_of_several_names_is_one() -> None:
    """It is counted, and its limit holds, once."""
    handlers = HandlerRegistry()
    handlers.audio("speak", "say")(on_loop)
    handlers.image("draw", queue="images")(in_thread)

    assert len(handlers) == len(list(handlers)) == 2
    assert len(handlers.handlers_of("images")) == 2
    assert len(handlers.handlers_of("audio")) == 1


def test_an_empty_registry_has_nothing() -> None:
    """A worker refuses it."""
    handlers = HandlerRegistry()

    assert (len(handlers), list(handlers), handlers.names_on("q")) == (0, [], [])


# two for one name


@pytest.mark.parametrize("queue", [None, "q"])
def test_two_handlers_for_one_name_are_refused_with_both_places(queue: str | None) -> None:
    """The message has the name, the queue, and where each was written."""
    handlers = HandlerRegistry()
    handlers.audio("work", queue=queue)(on_loop)

    with pytest.raises(DuplicateHandler) as caught:
        handlers.image("work", queue=queue)(in_thread)

    message = str(caught.value)
    assert "'work'" in message
    assert ("on queue 'q'" if queue else "on any queue") in message
    for function in (on_loop, in_thread):
        line = function.__code__.co_firstlineno
        assert f"{__name__}.{function.__qualname__}:{line}" in message


def test_two_functions_of_one_place_are_two_handlers() -> None:
    """Of functions that a loop makes, the last does not silently replace the others."""
    handlers = HandlerRegistry()

    def make() -> Callable[[Job[Any]], Awaitable[None]]:
        async def handler(_job: Job[Any]) -> None:
            """Do nothing."""

        return handler

    handlers.audio("work")(make())

    with pytest.raises(DuplicateHandler):
        handlers.audio("work")(make())


def test_a_refused_registration_leaves_nothing_behind() -> None:
    """Of its names, none is registered."""
    handlers = HandlerRegistry()
    handlers.audio("taken")(on_loop)

    with pytest.raises(DuplicateHandler):
        handlers.audio("new", "taken")(in_thread)

    assert handlers.names_on("q") == ["taken"]


def test_one_function_may_be_registered_again() -> None:
    """Under another name, on another queue, or the same: that is not a clash."""
    handlers = HandlerRegistry()

    for options in ({}, {}, {"queue": "q"}):
        handlers.audio("work", **options)(on_loop)  # type: ignore[call-overload]

    assert len(handlers) == 2


# merging


def test_registries_merge() -> None:
    """Each module may have its own."""
    handlers, others = HandlerRegistry(), HandlerRegistry()
    handlers.audio("speak")(on_loop)
    others.image("draw")(in_thread)

    handlers.include(others)

    assert handlers.names_on("q") == ["draw", "speak"]
    assert others.names_on("q") == ["draw"]


def test_what_is_not_a_registry_is_not_included() -> None:
    """Such as the module that the registry is in."""
    with pytest.raises(ConfigurationError, match="expected a HandlerRegistry, got <module '"):
        HandlerRegistry().include(functools)  # type: ignore[arg-type]


def test_a_registry_may_be_included_twice() -> None:
    """By two modules that both need it; in itself, too."""
    handlers, others = HandlerRegistry(), HandlerRegistry()
    others.image("draw")(in_thread)

    for each in (others, others, handlers):
        handlers.include(each)

    assert len(handlers) == 1


def test_a_clash_of_registries_merges_nothing() -> None:
    """All of the other's handlers, or none; the message has both places."""
    handlers, others = HandlerRegistry(), HandlerRegistry()
    handlers.audio("work")(on_loop)
    others.audio("before")(in_thread)
    others.audio("work")(in_thread)

    with pytest.raises(DuplicateHandler, match=r"on_loop:\d+ and .*in_thread:\d+"):
        handlers.include(others)

    assert handlers.names_on("q") == ["work"]


# how it is run


FUNCTIONS: dict[str, tuple[Callable[..., Any], bool]] = {
    "coroutine-function": (on_loop, False),
    "plain-function": (in_thread, True),
    "partial-of-coroutine-function": (functools.partial(with_voice, "low"), False),
    "partial-of-plain-function": (functools.partial(with_voice_in_thread, "low"), True),
    "partial-of-partial": (functools.partial(functools.partial(with_voice, "low")), False),
    "callable-object": (Speaker(), False),
    "plain-callable-object": (PlainSpeaker(), True),
    "partial-of-callable-object": (functools.partial(Speaker()), False),
    "method": (Speaker().speak, False),
    "plain-method": (Speaker().whisper, True),
    "decorated-coroutine-function": (passed_through(on_loop), False),
    "plain-function-made-async": (made_async(in_thread), False),
    "decorated-method": (passed_through(Speaker().speak), False),
}


@pytest.mark.parametrize(("function", "threaded"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_plain_functions_run_in_a_thread_and_coroutines_in_the_loop(
    function: Callable[..., Any],
    threaded: bool,  # noqa: FBT001
) -> None:
    """Whatever it is wrapped in: what gives a coroutine is awaited."""
    assert registered(function).threaded is threaded


@pytest.mark.parametrize(("function", "threaded"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_the_data_is_validated_whatever_the_function_is(
    function: Callable[..., Any],
    threaded: bool,  # noqa: FBT001
) -> None:
    """The annotation of its first free parameter says what the data is to be."""
    del threaded
    handler = registered(function)

    assert handler.decode(b'{"text": "hi"}') == Request("hi")
    with pytest.raises(InvalidPayload, match="text"):
        handler.decode(b'{"text": 5}')


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (on_loop, "on_loop"),
        (functools.partial(with_voice, "low"), "with_voice"),
        (Speaker(), "Speaker.__call__"),
        (functools.partial(Speaker()), "Speaker.__call__"),
        (Speaker().speak, "Speaker.speak"),
        (made_async(in_thread), "in_thread"),
    ],
    ids=["function", "partial", "object", "partial-object", "method", "decorated"],
)
def test_a_place_is_where_the_work_was_written(function: Callable[..., Any], name: str) -> None:
    """Module, name and line of the innermost function, not of what wraps it."""
    place = registered(function).place

    assert place.startswith(f"{__name__}.{name}:")
    assert place.rpartition(":")[2].isdecimal()


def test_a_thread_may_be_asked_for_where_there_is_one() -> None:
    """thread=True says what a plain function gets anyway."""
    assert registered(in_thread, thread=True).threaded
    assert not registered(on_loop, thread=False).threaded


@pytest.mark.parametrize(
    ("function", "thread", "message"),
    [
        (on_loop, True, "thread=True is for plain functions"),
        (functools.partial(with_voice, "low"), True, "thread=True is for plain functions"),
        (in_thread, False, "blocks the loop"),
    ],
    ids=["coroutine-in-thread", "partial-in-thread", "plain-in-loop"],
)
def test_a_thread_that_can_not_be_is_refused(
    function: Callable[..., Any],
    thread: bool,  # noqa: FBT001
    message: str,
) -> None:
    """A coroutine has no use of a thread, and a plain function would block the loop."""
    with pytest.raises(ConfigurationError, match=message):
        registered(function, thread=thread)


# what is refused


async def _async_generator(_: Any) -> AsyncIterator[int]:
    yield 1


def _generator(_: Any) -> Iterator[int]:
    yield 1


class _Generating:
    """An object whose call makes a generator."""

    def __call__(self, _: Any) -> Iterator[int]:
        yield 1


@functools.wraps(_generator)
def _listing(job: Any) -> list[int]:
    return [*_generator(job)]


_GENERATORS = {
    "async function": _async_generator,
    "function": _generator,
    "object": _Generating(),
    "partial": functools.partial(_generator),
}


@pytest.mark.parametrize("function", _GENERATORS.values(), ids=_GENERATORS)
def test_a_function_that_makes_a_generator_is_refused_whose_code_nobody_would_run(
    function: Any,
) -> None:
    handlers = HandlerRegistry()
    registrars = [handlers.audio("a"), handlers.on_failure, handlers.on_next_due]

    for register in (*registrars, handlers.backoff("slow")):
        with pytest.raises(ConfigurationError, match="a yield|plain function"):
            register(function)

    registered(_listing)  # its wrapper runs the generator


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ((), {}, r'as in @handlers.audio\("generate-audio"\)'),
        (("",), {}, "one or more job names"),
        ((7,), {}, "one or more job names.*7"),
        pytest.param((on_loop,), {}, "one or more job names", id="a function"),
        (("a", "a"), {}, "given twice"),
        (("a",), {"queue": ""}, "queue=''.*a queue's name"),
        (("a",), {"queue": 7}, "queue=7"),
        (("a",), {"queue": "a:b"}, "queue='a:b'.*without a colon"),
        (("a",), {"timeout": 0}, "timeout=0: expected seconds above 0"),
        (("a",), {"timeout": -1}, "timeout=-1"),
        (("a",), {"timeout": float("inf")}, "timeout=inf"),
        (("a",), {"timeout": float("nan")}, "timeout=nan"),
        (("a",), {"timeout": "30"}, "timeout='30'"),
        (("a",), {"timeout": True}, "timeout=True"),
        (("a",), {"concurrency": 0}, "concurrency=0: expected 1 or more"),
        (("a",), {"concurrency": 1.5}, "concurrency=1.5"),
        (("a",), {"concurrency": float("inf")}, "concurrency=inf"),
        (("a",), {"concurrency": "2"}, "concurrency='2'"),
        (("a",), {"concurrency": True}, "concurrency=True"),
    ],
    ids=str,
)
def test_a_registration_that_can_not_be_is_refused(
    names: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    """The message names the option, its value and what was expected."""
    handlers = HandlerRegistry()

    with pytest.raises(ConfigurationError, match=message):
        handlers.audio(*names, **options)(on_loop)

    assert len(handlers) == 0


def test_a_refused_option_names_the_function() -> None:
    """Of many handlers in a file, the one that is meant."""
    with pytest.raises(ConfigurationError, match=r"\.in_thread:\d+: timeout=0"):
        registered(in_thread, timeout=0)


def test_a_handler_without_a_parameter_is_refused() -> None:
    """It could not be called with its job."""

    async def nothing() -> None:
        """Take nothing."""

    with pytest.raises(ConfigurationError, match="first parameter"):
        registered(nothing)


# the policy of its jobs


def test_a_handler_keeps_the_policy_of_its_jobs_as_bullmqs_options() -> None:
    """So that a producer that has the handler writes what a worker would take."""
    handlers = HandlerRegistry()
    handlers.audio("x", attempts=5, backoff=Exponential(2, jitter=0), keep_failed="1h")(on_loop)

    (handler,) = handlers

    assert handler.defaults == {
        "attempts": 5,
        "backoff": {"type": "exponential", "delay": 2000},
        "removeOnFail": {"age": 3600},
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, r"test_registry.on_loop:\d+: 'x'\(attempts=0\): expected 1 or more"),
        ({"backoff": "fixed"}, r"'x'\(backoff='fixed'\): expected Exponential"),
        ({"keep_completed": "soon"}, r"'x'\(keep_completed='soon'\)"),
    ],
)
def test_a_policy_that_can_not_be_is_refused_with_the_handlers_place(
    options: Any, message: str
) -> None:
    """At registration, and not by the first job that fails."""
    with pytest.raises(ConfigurationError, match=message):
        HandlerRegistry().audio("x", **options)(on_loop)


def test_a_worker_is_not_made_for_a_backoff_that_nobody_gave() -> None:
    """It may be registered after the handler, in a registry that is included."""
    handlers, strategies = HandlerRegistry(), HandlerRegistry()
    handlers.audio("x", backoff="polite")(on_loop)
    with pytest.raises(ConfigurationError, match=r"test_registry.on_loop.* 'polite', its backoff"):
        Worker(handlers, Settings())

    strategies.backoff("polite")(lambda _: 5.0)
    handlers.include(strategies)

    Worker(handlers, Settings())
