"""What a handler's first annotation says of its payload."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

import pytest

from convolab_worker.errors import ConfigurationError
from convolab_worker.payloads.annotation import payload_annotation
from tests.support.payloads import Course, Line, Pause

if TYPE_CHECKING:
    from collections.abc import Callable

    OnlyForCheckers = int

T = TypeVar("T")


class Job(Generic[T]):
    """Stands for the library's Job, which payload_annotation gets as an argument."""


def test_annotation_of_the_first_parameter_is_found() -> None:
    """Job[T] gives T, whatever kind of callable the handler is."""

    async def asynchronous(job: Job[Course]) -> Nowhere:  # type: ignore[name-defined] # noqa: F821
        ...

    def bare(job: Job) -> None: ...  # type: ignore[type-arg]

    def unannotated(job, other: int = 1) -> None: ...  # type: ignore[no-untyped-def] # noqa: ANN001

    def generic(job: Job[T]) -> None: ...

    def wrapped_in_annotated(job: Annotated[Job[int], "x"]) -> None: ...

    @functools.wraps(asynchronous)
    def wrapper(*args: Any) -> Any: ...

    class Handler:
        def method(self, job: Job[list[Pause]]) -> None: ...

        def __call__(self, job: Job[Line]) -> None: ...

    class AnyJob(Protocol):
        data: Any

    def structural(job: AnyJob) -> None: ...

    expected: list[tuple[Callable[..., Any], object]] = [
        (asynchronous, Course),
        (bare, Any),
        (unannotated, Any),
        (generic, Any),
        (wrapped_in_annotated, int),
        (wrapper, Course),
        (Handler().method, list[Pause]),
        (Handler(), Line),
        (functools.partial(asynchronous), Course),
        (structural, Any),
        (lambda *jobs: None, Any),  # noqa: ARG005
    ]
    found = [payload_annotation(function, Job) for function, _ in expected]

    assert found == [annotation for _, annotation in expected]


def test_local_and_closed_over_names_are_resolved() -> None:
    """A payload class defined in a test or a factory is found, called from it or later."""

    @dataclasses.dataclass
    class Local:
        size: int

    def local(job: Job[Local]) -> None: ...

    def factory() -> Callable[..., Any]:
        @dataclasses.dataclass
        class Inner:
            size: int

        def closed_over(job: Job[Inner]) -> Inner:  # noqa: ARG001
            return Inner(1)

        return closed_over

    assert payload_annotation(local, Job) is Local
    assert payload_annotation(factory(), Job).__name__ == "Inner"  # type: ignore[attr-defined]


def test_job_itself_may_be_imported_for_checkers_only() -> None:
    """`Job` under `if TYPE_CHECKING`, where linters move it, is no obstacle."""
    namespace: dict[str, Any] = {"__name__": "elsewhere", "Course": Course}
    exec("def handler(job: 'Job[Course]'): ...", namespace)  # noqa: S102

    assert payload_annotation(namespace["handler"], Job) is Course


def test_names_not_yet_assigned_are_no_obstacle() -> None:
    """A handler that closes over a name assigned later is read without it."""

    def handler(job: Job[Course]) -> int:  # noqa: ARG001
        return later

    annotation = payload_annotation(handler, Job)
    later = 1

    assert (annotation, handler(Job())) == (Course, later)


def test_a_wrapper_may_give_the_function_that_it_wraps_more_than_the_job() -> None:
    def with_voice(job: Job[Course], voice: str) -> str:  # noqa: ARG001
        return voice

    @functools.wraps(with_voice)
    def handler(job: Job[Course]) -> str:
        return with_voice(job, "Anna")

    for given in (handler, functools.partial(with_voice, voice="Anna")):
        assert payload_annotation(given, Job) is Course


def test_annotations_that_are_no_job_are_refused() -> None:
    """What can't be a handler's first parameter is told, function and annotation named."""

    def unresolved(job: Job[OnlyForCheckers]) -> None: ...

    def not_a_job(data: Course) -> None: ...

    def no_parameter() -> None: ...

    class NoFunction:
        __call__ = print
        __signature__ = inspect.signature(not_a_job)

    def keyword_only(*, job: Job[int]) -> None: ...

    def of_celery(job: Job[int], text: str, *, speed: float, voice: str = "") -> None: ...

    refusals: list[tuple[Callable[..., Any], str]] = [
        (unresolved, "unresolved: can't resolve the annotation 'Job[OnlyForCheckers]'"),
        (not_a_job, "not_a_job: data is annotated as Course; expected Job[...]"),
        (no_parameter, "no_parameter: expected a first parameter that takes the job"),
        (NoFunction(), "expected a function, or an object with a __call__"),
        (keyword_only, "keyword_only: expected a first parameter that takes the job"),
        (of_celery, "of_celery: expected one parameter, the job, got text, speed as well"),
    ]
    for function, part in refusals:
        with pytest.raises(ConfigurationError) as caught:
            payload_annotation(function, Job)

        assert part in str(caught.value)
