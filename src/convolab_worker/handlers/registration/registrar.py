"""The decorators that register handlers, with the types that type checkers see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from convolab_worker.bullmq.jobs.job_type import JobType
    from convolab_worker.handlers.job.job import Job
    from convolab_worker.handlers.job.sync_job import SyncJob
    from convolab_worker.handlers.registration.handler import HandlerOptions

F = TypeVar("F", bound="Callable[[SyncJob[Any, Any]], Any]")
P = TypeVar("P")
R = TypeVar("R")
X = TypeVar("X")


class Registering(Protocol[P, R]):
    """A decorator of handlers that take a ``Job[P]``, or ``SyncJob[P]``, and give an ``R``."""

    @overload
    def __call__(
        self, function: Callable[[SyncJob[P, X]], Coroutine[Any, Any, R]], /
    ) -> Callable[[Job[P, X]], Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[[SyncJob[P, X]], R], /) -> Callable[[Job[P, X]], R]: ...


class Registrar:
    """Registers handlers of one kind: ``@handlers.audio("generate-audio", timeout=300)``.

    It is called with the names of the jobs, or with a JobType, which gives the name, the queue and
    the types that the function's annotations must fit, and any former names behind it. The
    ``options`` are those of HandlerOptions. Raises ConfigurationError for what can't work, and
    DuplicateHandler where a name is taken.
    """

    __slots__ = ("_kind", "_register")

    def __init__(self, kind: str, register: Callable[..., Callable[[Any], Any]]) -> None:
        self._kind = kind
        self._register = register

    @overload
    def __call__(
        self, job_type: JobType[P, R], /, *names: str, **options: Unpack[HandlerOptions]
    ) -> Registering[P, R]: ...

    @overload
    def __call__(self, *names: str, **options: Unpack[HandlerOptions]) -> Callable[[F], F]: ...

    def __call__(self, *names: Any, **options: Unpack[HandlerOptions]) -> Any:
        """Return the decorator."""
        return self._register(self._kind, names, options)
