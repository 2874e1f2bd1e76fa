"""What type checkers see of a job where nothing is awaited (SyncJob), and of handlers."""
# ruff: noqa: D102 - each method is described in Job

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeAlias, TypeVar, overload

from convolab_worker.handlers.job.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from convolab_worker.bullmq.jobs.child_jobs import ChildJob
    from convolab_worker.bullmq.protocol.keyword_types import Backoff
    from convolab_worker.handlers.job.job import R, T

V = TypeVar("V")
P = ParamSpec("P")

if TYPE_CHECKING:

    class SyncJob(Job[T, R]):
        """A job as a plain handler sees it, which runs in a thread: nothing is to be awaited.

        For type checkers: ``def render(job: SyncJob[Request])``. When it runs it is ``Job``.
        """

        def progress(self, value: Any) -> None: ...  # type: ignore[override]

        @overload  # type: ignore[override, no-overload-impl]
        def step(
            self,
            name: str,
            function: Callable[..., Coroutine[Any, Any, V]],
            /,
            *args: Any,
            attempts: int,
            backoff: Backoff | None = None,
            timeout: float | None = None,
            **kwargs: Any,
        ) -> V: ...

        @overload
        def step(
            self,
            name: str,
            function: Callable[..., V],
            /,
            *args: Any,
            attempts: int,
            backoff: Backoff | None = None,
            timeout: float | None = None,
            **kwargs: Any,
        ) -> V: ...

        @overload
        def step(
            self,
            name: str,
            function: Callable[..., Coroutine[Any, Any, V]],
            /,
            *args: Any,
            timeout: float,
            **kwargs: Any,
        ) -> V: ...

        @overload
        def step(
            self,
            name: str,
            function: Callable[..., V],
            /,
            *args: Any,
            timeout: float,
            **kwargs: Any,
        ) -> V: ...

        @overload
        def step(
            self,
            name: str,
            function: Callable[P, Coroutine[Any, Any, V]],
            /,
            *args: P.args,
            **kwargs: P.kwargs,
        ) -> V: ...

        @overload
        def step(
            self, name: str, function: Callable[P, V], /, *args: P.args, **kwargs: P.kwargs
        ) -> V: ...

        def update_data(self, data: T) -> None: ...  # type: ignore[override]
        def enqueue_children(self, children: Iterable[ChildJob]) -> NoReturn: ...
        def children_results(self) -> dict[str, Any]: ...  # type: ignore[override]
        def children_failures(self) -> dict[str, str]: ...  # type: ignore[override]
        def drop_children(self) -> None: ...  # type: ignore[override]

    # Handlers as producers pass them, with the types of their data and their result.
    AsyncHandler: TypeAlias = Callable[[SyncJob[T, Any]], Coroutine[Any, Any, V]]
    PlainHandler: TypeAlias = Callable[[SyncJob[T, Any]], V]

else:
    SyncJob = Job
