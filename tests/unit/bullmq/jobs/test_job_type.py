"""A job's declaration: what it is made of, what it checks, and how it is found by its handler."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import pytest

from convolab_worker import Child, HandlerRegistry, Job, JobType
from convolab_worker.bullmq.jobs.job_type import job_type_of, order
from convolab_worker.errors import (
    ConfigurationError,
    DuplicateHandler,
    InvalidPayload,
    InvalidResult,
)


@dataclass
class AudioRequest:
    text: str
    speed: float = 1.0


@dataclass
class AudioResult:
    seconds: float


class SlowResult(AudioResult):
    """A result with more to it."""


class Line(TypedDict):
    speaker: str


GENERATE = JobType("generate-audio", AudioRequest, AudioResult, queue="audio", attempts=5)


# a declaration


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((7,), {}, "name=7.* a job name"),
        (("",), {}, "name=''.* a job name"),
        (("x", AudioRequest), {"queue": 7}, "queue=7.* a queue's name"),
        (("x", AudioRequest), {"attempts": 0}, "attempts=0.* 1 or more"),
        (("x", AudioRequest), {"backoff": "fixed"}, "backoff='fixed'"),
        (("x", pytest.Item), {}, "can't validate Item"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_declared(
    arguments: Any, options: Any, message: str
) -> None:
    """In the module that API and worker share, and not with the first job."""
    with pytest.raises(ConfigurationError, match=message):
        JobType(*arguments, **options)


def test_a_result_is_read_as_it_was_declared() -> None:
    """None of the declared type's fields is left as JSON."""
    assert GENERATE.decode_result(b'{"seconds": 2}') == AudioResult(2.0)
    assert JobType("x", AudioRequest, None).decode_result(b"null") is None
    assert JobType("x").decode_result(b'{"any": 1}') == {"any": 1}


def test_a_result_that_does_not_fit_is_told_by_its_place() -> None:
    """As a payload is, under its own name."""
    with pytest.raises(InvalidResult, match="^result.seconds: expected float, got"):
        GENERATE.decode_result(b'{"seconds": "2"}')


def test_an_id_of_a_type_is_text_that_knows_the_type() -> None:
    """It comes back as plain text wherever it is copied or sent."""
    job_id = GENERATE.job_id("abc")

    assert (job_id, job_id.queue, job_id.job_type) == ("abc", "audio", GENERATE)
    assert not job_id.existed
    assert type(copy.deepcopy(job_id)) is type(pickle.loads(pickle.dumps(job_id))) is str  # noqa: S301
    assert order("x", {"id": job_id}, {}).data == '{"id":"abc"}'


# what a producer asks for


def test_a_declaration_gives_name_queue_and_options() -> None:
    """What the producer says itself comes first."""
    plain = order(GENERATE, AudioRequest("a"), {})
    other = order(GENERATE, AudioRequest("a"), {"queue": "b", "attempts": 2, "delay": 3})

    assert plain[:4] == ("generate-audio", "audio", '{"text":"a","speed":1.0}', {"attempts": 5})
    assert (other.queue, other.options) == ("b", {"attempts": 2, "delay": 3})
    assert order(GENERATE, AudioRequest("a"), {"attempts": None}).options == {"attempts": 5}
    assert order("x", None, {"queue": None}) == ("x", None, "{}", {}, None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (AudioRequest(3), "generate-audio: data.text: expected str, got 3"),  # type: ignore[arg-type]
        ({"txt": "a"}, "generate-audio: data.text: required field is missing"),
        (None, "generate-audio: data: expected object, got null"),
    ],
)
def test_data_that_the_handler_would_refuse_is_not_sent(data: object, message: str) -> None:
    """It is checked as the handler will check it: after its way through JSON."""
    with pytest.raises(InvalidPayload, match=message):
        order(GENERATE, data, {})
    with pytest.raises(InvalidPayload, match=message):
        Child(GENERATE, data)  # type: ignore[misc]


def test_data_that_is_no_json_is_told_as_ever() -> None:
    with pytest.raises(InvalidResult, match="data.text: expected a JSON value"):
        order(GENERATE, {"text": object()}, {})


def test_a_child_takes_what_the_declaration_says() -> None:
    """And what it says itself comes first."""
    child = Child(GENERATE, AudioRequest("a"), key="a")

    assert (child.name, child.queue, child.attempts, child.key) == (
        "generate-audio",
        "audio",
        5,
        "a",
    )
    assert Child(GENERATE, AudioRequest("a"), queue="b", attempts=1).queue == "b"
    assert Child(GENERATE, AudioRequest("a"), queue="b", attempts=1).attempts == 1


# handlers


def test_a_handler_is_found_by_its_function() -> None:
    """With the types that it is annotated with, whatever it is wrapped in afterwards."""
    handlers = HandlerRegistry()

    @handlers.audio("generate-audio", "former-name", queue="audio", attempts=4, timeout=3)
    async def generate(job: Job[AudioRequest]) -> AudioResult:
        return AudioResult(len(job.data.text))

    @functools.wraps(generate)
    async def wrapper(job: Job[AudioRequest]) -> AudioResult:
        return await generate(job)

    found = job_type_of(generate)
    assert (found.name, found.queue, found.payload, found.result) == (
        "generate-audio",
        "audio",
        AudioRequest,
        AudioResult,
    )
    assert job_type_of(wrapper) is found
    assert Child(generate, AudioRequest("a")).name == "generate-audio"
    assert order(generate, AudioRequest("a"), {}).options == {"attempts": 4}


def test_a_handler_of_a_declaration_is_that_declaration() -> None:
    """Its queue too; former names are still handled."""
    handlers = HandlerRegistry()

    @handlers.audio(GENERATE, "former-name", timeout=3)
    async def generate(job: Job[AudioRequest]) -> AudioResult:
        return AudioResult(len(job.data.text))

    assert job_type_of(generate) is GENERATE
    assert handlers.names_on("audio") == ["former-name", "generate-audio"]
    assert handlers.names_on("other") == []
    handler = handlers.find("audio", "generate-audio")
    assert handler is not None
    assert handler.timeout == 3
    assert handler.decode(b'{"text": "a"}') == AudioRequest("a")


def test_an_unannotated_handler_gets_what_was_declared() -> None:
    """A job without a type has that of the declaration."""
    handlers = HandlerRegistry()

    @handlers.audio(GENERATE)
    def generate(job: Any) -> Any:
        return job.data.text

    handler = handlers.find("audio", "generate-audio")
    assert handler is not None
    assert handler.decode(b'{"text": "a"}') == AudioRequest("a")


def fitting() -> list[Any]:
    async def a_subclass(job: Job[AudioRequest]) -> SlowResult: ...  # type: ignore[empty-body]
    async def one_of_several(job: Job[AudioRequest]) -> AudioResult: ...  # type: ignore[empty-body]
    def awaited(job: Job[AudioRequest]) -> Awaitable[AudioResult]: ...  # type: ignore[empty-body]
    def annotated(job: Job[AudioRequest]) -> Annotated[AudioResult, "x"]: ...  # type: ignore[empty-body]

    return [a_subclass, one_of_several, awaited, annotated]


@pytest.mark.parametrize("function", fitting(), ids=lambda function: function.__name__)
def test_annotations_that_fit_are_taken(function: Any) -> None:
    declared: Any = JobType("x", AudioRequest, AudioResult | None)

    HandlerRegistry().audio(declared)(function)


def misfits() -> list[Any]:
    async def payload(job: Job[AudioResult]) -> AudioResult: ...  # type: ignore[empty-body]
    async def untyped_dict(job: Job[dict[str, Any]]) -> AudioResult: ...  # type: ignore[empty-body]
    async def result(job: Job[AudioRequest]) -> AudioRequest: ...  # type: ignore[empty-body]
    async def no_result(job: Job[AudioRequest]) -> None: ...
    async def either(job: Job[AudioRequest]) -> AudioResult | str: ...  # type: ignore[empty-body]
    async def literal(job: Job[AudioRequest]) -> Literal["x"]: ...  # type: ignore[empty-body]
    async def list_of(job: Job[AudioRequest]) -> list[AudioResult]: ...  # type: ignore[empty-body]
    async def typed_dict(job: Job[AudioRequest]) -> Line: ...  # type: ignore[empty-body]

    return [payload, untyped_dict, result, no_result, either, literal, list_of, typed_dict]


@pytest.mark.parametrize("function", misfits(), ids=lambda function: function.__name__)
def test_annotations_that_do_not_fit_are_an_error_at_registration(function: Any) -> None:
    """The message has the handler's place, what it says and what was declared."""
    with pytest.raises(
        ConfigurationError, match=rf"{function.__name__}:\d+: (takes|gives) .*; exp"
    ):
        HandlerRegistry().audio(GENERATE)(function)


def test_lists_are_judged_by_what_is_in_them() -> None:
    declared: Any = JobType("x", list[AudioRequest], list[AudioResult])

    async def wrong(job: Job[list[AudioRequest]]) -> list[str]: ...  # type: ignore[empty-body]
    async def right(job: Job[list[AudioRequest]]) -> list[SlowResult]: ...  # type: ignore[empty-body]

    HandlerRegistry().audio(declared)(right)
    with pytest.raises(ConfigurationError, match=r"gives list\[str\]; expected list"):
        HandlerRegistry().audio(declared)(wrong)


def test_what_is_said_twice_must_be_the_same() -> None:
    """An option beside a declaration that says otherwise is a mistake of one of them."""
    handlers = HandlerRegistry()

    async def generate(job: Job[AudioRequest]) -> AudioResult: ...  # type: ignore[empty-body]

    with pytest.raises(ConfigurationError, match="queue='b': .*says 'audio'"):
        handlers.audio(GENERATE, queue="b")
    handlers.audio(GENERATE, queue="audio")(generate)
    with pytest.raises(DuplicateHandler):
        handlers.audio("generate-audio", queue="audio")(print)


def test_what_is_no_handler_is_refused() -> None:
    """And one that is registered twice, since it is not clear which is meant."""
    handlers = HandlerRegistry()

    async def generate(job: Job[Any]) -> None: ...

    with pytest.raises(ConfigurationError, match="generate is not a registered handler"):
        job_type_of(generate)
    with pytest.raises(ConfigurationError, match="7 is not a registered handler"):
        order(7, None, {})
    handlers.audio("a")(handlers.audio("a")(generate))
    assert job_type_of(generate).name == "a"
    handlers.audio("b")(generate)
    with pytest.raises(ConfigurationError, match=r"registered more than once \('a', 'b'\)"):
        job_type_of(generate)


def test_a_method_is_registered_as_ever() -> None:
    """It can't be enqueued by itself: a method has no attributes of its own."""

    class Voices:
        async def speak(self, job: Job[AudioRequest]) -> None: ...

    handlers, voices = HandlerRegistry(), Voices()
    handlers.audio("speak")(voices.speak)

    assert handlers.find("any", "speak") is not None
    with pytest.raises(ConfigurationError, match="speak is not a registered handler"):
        job_type_of(voices.speak)


def test_a_return_annotation_may_be_defined_later() -> None:
    """It is looked for again when the result is read, and only then is an error."""
    handlers, names = HandlerRegistry(), {"handlers": HandlerRegistry(), "Job": Job, "Any": Any}
    program = (
        "from __future__ import annotations\n"
        "@handlers.audio('x')\n"
        "async def later(job: Job[Any]) -> Later: ...\n"
    )
    names["handlers"] = handlers
    exec(program, names)  # noqa: S102 - a module of its own
    job_type = job_type_of(names["later"])

    with pytest.raises(ConfigurationError, match="can't resolve the annotation 'Later'"):
        job_type.decode_result(b"{}")
    names["Later"] = AudioResult
    assert job_type.decode_result(b'{"seconds": 1}') == AudioResult(1.0)
