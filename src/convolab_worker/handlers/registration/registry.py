"""HandlerRegistry: which function runs a job, by its queue and name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from msgspec import structs

from convolab_worker.bullmq.jobs.job_type import JobType, remember
from convolab_worker.bullmq.protocol.keywords import BUILT_IN
from convolab_worker.errors import ConfigurationError, DuplicateHandler
from convolab_worker.handlers.around.hooks import Hooks
from convolab_worker.handlers.around.lifespan import Lifespan, LifespanFunction
from convolab_worker.handlers.around.middleware import Middleware, MiddlewareFunction
from convolab_worker.handlers.around.redaction import Redactions, RedactT
from convolab_worker.handlers.functions import place
from convolab_worker.handlers.registration.handler import (
    KINDS,
    Handler,
    HandlerOptions,
    Scope,
    check_names,
    job_type_of,
    make_handler,
    with_declared,
)
from convolab_worker.handlers.registration.processes import import_name
from convolab_worker.handlers.registration.registrar import Registrar
from convolab_worker.handlers.retry import S, Strategies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

    from convolab_worker.handlers.around.failures import Failure
    from convolab_worker.handlers.registration.registrar import F, P, R, Registering

L = TypeVar("L", bound=LifespanFunction)
M = TypeVar("M", bound=MiddlewareFunction)
H = TypeVar("H", bound="Callable[[Failure], Awaitable[None] | None]")
N = TypeVar("N", bound="Callable[[float], Awaitable[None] | None]")
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class HandlerRegistry:
    """Handlers by queue and job name; registries of several modules merge by ``include``."""

    def __init__(self) -> None:
        self._handlers: dict[tuple[str | None, str], Handler] = {}
        self._scope = Scope()
        self._scopes: dict[Scope, None] = {self._scope: None}
        self.strategies = Strategies()
        self.failure_hooks: Hooks[Failure] = Hooks("on_failure", "the Failure")
        self.next_due_hooks: Hooks[float] = Hooks("on_next_due", "the time in epoch seconds")
        self.redactions = Redactions()

    @property
    def audio(self) -> Registrar:
        """Register the decorated function for audio jobs: see Registrar."""
        return Registrar("audio", self._register)

    @property
    def dialogue(self) -> Registrar:
        """Register the decorated function for dialogue jobs: see Registrar."""
        return Registrar("dialogue", self._register)

    @property
    def image(self) -> Registrar:
        """Register the decorated function for image jobs: see Registrar."""
        return Registrar("image", self._register)

    @property
    def course(self) -> Registrar:
        """Register the decorated function for course jobs: see Registrar."""
        return Registrar("course", self._register)

    @overload
    def job(
        self,
        job_type: JobType[P, R],
        /,
        *names: str,
        kind: str = ...,
        **options: Unpack[HandlerOptions],
    ) -> Registering[P, R]: ...

    @overload
    def job(
        self, *names: str, kind: str = ..., **options: Unpack[HandlerOptions]
    ) -> Callable[[F], F]: ...

    def job(self, *names: Any, kind: str = "job", **options: Unpack[HandlerOptions]) -> Any:
        """Register the decorated function for jobs of any ``kind``, such as ``"video"``.

        Logs, metrics and middleware know a job by its kind. See Registrar. Raises
        ConfigurationError for a kind that is not a word.
        """
        return self._register(_checked_kind("job", kind), names, options)

    def lifespan(self, function: L) -> L:
        """Open, before the first job, what handlers need, and close it after the last.

        ``function`` is an async function that yields once, or an ``asynccontextmanager``; it takes
        no argument, or the worker's settings. What it yields is ``job.resources`` of this
        registry's handlers. Raises ConfigurationError for a second one.
        """
        lifespan = Lifespan.checked(function)
        known = self._scope.lifespan
        if known is not None:
            msg = (
                f"two lifespans for one registry: {known.place} and {lifespan.place}; "
                "expected one, or registries of their own that are included"
            )
            raise ConfigurationError(msg)
        self._scope.lifespan = lifespan
        return function

    @overload
    def middleware(self, function: M, /) -> M: ...

    @overload
    def middleware(self, /, *, kind: str | None = None) -> Callable[[M], M]: ...

    def middleware(self, function: Any = None, /, *, kind: str | None = None) -> Any:
        """Wrap every job of this registry, or every one of a kind, in an async function.

        ``function(job, call_next)`` returns the job's result: what ``await call_next(job)`` gave,
        or another. The first that is registered is the outermost; those of a registry are around
        those of the registries that it includes. Raises ConfigurationError for what can't be one; a
        kind that no handler has is an error when a worker starts.
        """
        if kind is not None:
            _checked_kind("middleware", kind)

        def register(function: M) -> M:
            self._scope.middleware.append(Middleware.checked(function, kind))
            return function

        return register if function is None else register(function)

    def backoff(self, name: str) -> Callable[[S], S]:
        """Register the decorated function as the backoff strategy that jobs call ``name``.

        It is given the FailedAttempt, and gives the seconds before the next attempt, or None for
        no further one. It runs in the event loop. Raises ConfigurationError where a name is taken,
        or is one of BullMQ's own.
        """
        return self.strategies.register(name)

    def on_failure(self, hook: H) -> H:
        """Call the decorated function with the Failure of each attempt that fails.

        It hears of every job of the worker: what a handler or a middleware raised, data that does
        not fit, a name that nobody handles, a child that failed its parent. It may be plain or
        async; it runs in the event loop, before the failure is written, and for 5 s at most. What
        it raises is logged, and changes nothing. A job that fails because its worker died has run
        no code that could tell: it is in the log and in the metrics only.
        """
        return self.failure_hooks.register(hook)

    def on_next_due(self, hook: N) -> N:
        """Call the decorated function with the time (epoch seconds) at which work is due next.

        The function asks a task queue, or whatever starts the worker, for a call at that time, when
        a delayed job or a retry is due, a rate limit ends, or another worker's lock of a job. It is
        called at the end of a drain, before a held request is answered, before a worker falls
        asleep, and when one stops: once for each such time, in whole seconds, and for none that is
        later than one that is still to come. It may be plain or async; it runs in the event loop,
        for 5 s at most. What it raises is logged, changes nothing, and the next end of a drain
        calls it again.
        """
        return self.next_due_hooks.register(hook)

    def redact(self, function: RedactT) -> RedactT:
        """Have the decorated function choose what the console shows in the place of a value.

        It is given a Shown for each value, payload or text, of every job, and returns what is shown
        instead, which may be the value itself. It runs in the server's thread, and has to be quick.
        Where it raises, nothing is shown, and the log says why. ``console_app(redact=...)`` takes
        such a function where there is no registry.
        """
        return self.redactions.register(function)

    def include(self, other: HandlerRegistry) -> None:
        """Take over every handler of ``other``, or none: raises DuplicateHandler on a clash.

        Its lifespan and its middleware come with it, for its own handlers, and its backoff
        strategies and its ``on_failure``, ``on_next_due`` and ``redact`` functions for all. Raises
        ConfigurationError for what is not a registry.
        """
        given: object = other
        if not isinstance(given, HandlerRegistry):
            msg = f"include: expected a HandlerRegistry, got {given!r}"
            raise ConfigurationError(msg)
        for (queue, name), handler in other._handlers.items():
            self._check_free(queue, name, handler.function)
        self.strategies.include(other.strategies)
        self.failure_hooks.include(other.failure_hooks)
        self.next_due_hooks.include(other.next_due_hooks)
        self.redactions.include(other.redactions)
        self._scopes.update(other._scopes)
        for key, handler in other._handlers.items():
            scopes = tuple(dict.fromkeys((self._scope, *handler.scopes)))
            self._handlers[key] = structs.replace(handler, scopes=scopes)

    @property
    def lifespans(self) -> list[tuple[Scope, Lifespan]]:
        """The lifespans of this registry and of those it includes, in the order of opening."""
        return [(scope, scope.lifespan) for scope in self._scopes if scope.lifespan is not None]

    @property
    def scopes(self) -> list[Scope]:
        """The scopes of this registry and of those it includes, its own first."""
        return list(self._scopes)

    def staged(self, opened: Mapping[Scope, Any]) -> HandlerRegistry:
        """The handlers as one worker runs them; ``opened`` has what its lifespans gave."""
        stage = HandlerRegistry()
        stage._handlers = {key: handler.staged(opened) for key, handler in self._handlers.items()}
        stage.strategies = self.strategies
        stage.failure_hooks = self.failure_hooks
        return stage

    def check(self) -> None:
        """Raise ConfigurationError for mistakes that show only once all is registered.

        They are: a backoff that names a strategy which is not registered, a middleware for a kind
        that no handler has, and a handler that its process could not import.
        """
        strategies = {*BUILT_IN, *self.strategies}
        for handler in self:
            if handler.process is not None:
                # Not known earlier: a function has its name only when its decorators are done.
                import_name(handler.function)
            name = handler.defaults.get("backoff", {}).get("type")
            if isinstance(name, str) and name not in strategies:
                msg = (
                    f"{handler.place}: no strategy is called {name!r}, its backoff: "
                    f"register one with @handlers.backoff({name!r})"
                )
                raise ConfigurationError(msg)
        kinds = {*KINDS, *(handler.kind for handler in self)}
        for ware in (ware for scope in self._scopes for ware in scope.middleware):
            if ware.kind is not None and ware.kind not in kinds:
                msg = (
                    f"{ware.place}: middleware(kind={ware.kind!r}): no handler has that kind; "
                    f"expected one of {', '.join(sorted(kinds))}"
                )
                raise ConfigurationError(msg)

    def find(self, queue: str, name: str) -> Handler | None:
        """The handler of jobs called ``name`` on ``queue``; one of that queue alone comes first."""
        return self._handlers.get((queue, name)) or self._handlers.get((None, name))

    def names_on(self, queue: str) -> list[str]:
        """The job names that are handled on ``queue``, in order."""
        return sorted({name for where, name in self._handlers if where in (None, queue)})

    def handlers_of(self, queue: str) -> list[Handler]:
        """The handlers that a job of ``queue`` may need."""
        return [each for each in self if each.queue in (None, queue)]

    def unreachable(self, queues: Collection[str]) -> list[Handler]:
        """The handlers that no job of these queues can need: they are bound to another queue."""
        return [each for each in self if each.queue is not None and each.queue not in queues]

    def __iter__(self) -> Iterator[Handler]:
        """Each handler once."""
        return iter({handler.key: handler for handler in self._handlers.values()}.values())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _register(
        self, kind: str, names: Sequence[str | JobType[Any, Any]], options: HandlerOptions
    ) -> Callable[[F], F]:
        declared = names[0] if names and isinstance(names[0], JobType) else None
        checked = check_names(
            kind, [declared.name, *names[1:]] if declared is not None else names, options
        )
        if declared is not None:
            options = with_declared(declared, options)

        def register(function: F) -> F:
            job_type = job_type_of(checked[0], function, options, declared)
            handler = make_handler(kind, checked, function, options, self._scope, job_type)
            for name in checked:
                self._check_free(handler.queue, name, function)
            for name in checked:
                self._handlers[handler.queue, name] = handler
            remember(function, job_type)
            return function

        return register

    def _check_free(self, queue: str | None, name: str, function: Callable[..., Any]) -> None:
        known = self._handlers.get((queue, name))
        if known is not None and known.function is not function:
            where = f"on queue {queue!r}" if queue else "on any queue"
            msg = f"two handlers for {name!r} {where}: {known.place} and {place(function)}"
            raise DuplicateHandler(msg)


def _checked_kind(where: str, kind: object) -> str:
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        msg = f"{where}(kind={kind!r}): expected a word, such as 'video'"
        raise ConfigurationError(msg)
    return kind
