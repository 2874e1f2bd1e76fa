"""HandlerRegistry: which function runs a job, by its queue and name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from convolab_worker._setting_types import StartRate, parse_rate
from convolab_worker.bullmq.protocol.keywords import JobPolicy, job_options
from convolab_worker.errors import ConfigurationError, DuplicateHandler
from convolab_worker.handlers.functions import is_async, place
from convolab_worker.handlers.job import Job
from convolab_worker.handlers.lifespan import Lifespan, LifespanFunction
from convolab_worker.handlers.middleware import Middleware, MiddlewareFunction
from convolab_worker.handlers.processes import Renewal, checked_process, import_name
from convolab_worker.handlers.retry import S, Strategies
from convolab_worker.payloads.annotation import payload_annotation
from convolab_worker.payloads.decode import decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

F = TypeVar("F", bound="Callable[[Job[Any, Any]], Any]")
L = TypeVar("L", bound=LifespanFunction)
M = TypeVar("M", bound=MiddlewareFunction)
KINDS = ("audio", "dialogue", "image", "course")


@dataclass(slots=True, eq=False)
class Scope:
    """One registry's own lifespan and middleware; they may be registered after its handlers."""

    lifespan: Lifespan | None = None
    middleware: list[Middleware] = field(default_factory=list)


class HandlerOptions(JobPolicy, total=False):
    """How a handler is to be run, and what counts for jobs whose own options say nothing.

    ``queue`` restricts it to one queue. ``timeout`` (seconds) ends a job that runs longer;
    ``concurrency`` is the most jobs of this handler at once in this worker. ``rate`` limits its
    starts in this worker, as in ``"30/m"``, ``"5/s"`` or ``"1/10s"``, spread evenly. A plain
    function runs in a thread of its own, and ``thread=True`` only says so. With ``process=True`` it
    runs in a process of its own, with ``process=Renewal(jobs=100)`` in one that is replaced.

    ``attempts``, ``backoff``, ``keep_completed`` and ``keep_failed`` are those of JobPolicy.
    """

    queue: str | None
    timeout: float | None
    concurrency: int | None
    thread: bool | None
    process: bool | Renewal | None
    rate: str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Handler:
    """A registered function, and how it is to be run.

    ``timeout`` is in seconds, None for no limit; ``concurrency`` is the most jobs of this handler
    at once, None for the worker's own limit; ``queue`` is None for a handler of any queue.
    ``process`` says when the processes that it runs in are renewed, None for one that runs here.
    ``defaults`` are BullMQ's job options for jobs whose own say nothing.
    ``scopes`` are those of the registries that it is in, the outermost first; ``middleware`` and
    ``resources`` are what they come to in one worker (see ``HandlerRegistry.staged``).
    """

    kind: str
    names: tuple[str, ...]
    queue: str | None
    function: Callable[..., Any]
    decode: Callable[[bytes], Any]
    timeout: float | None
    concurrency: int | None
    threaded: bool
    key: str
    place: str
    process: Renewal | None = None
    rate: StartRate | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    scopes: tuple[Scope, ...] = ()
    middleware: tuple[Middleware, ...] = ()
    resources: Any = None

    def staged(self, opened: Mapping[Scope, Any]) -> Handler:
        """The handler as a worker runs it whose lifespans gave ``opened``."""
        around = [ware for scope in self.scopes for ware in scope.middleware]
        nearest = next((opened[scope] for scope in reversed(self.scopes) if scope in opened), None)
        return dataclasses.replace(
            self,
            middleware=tuple(ware for ware in around if ware.kind in (None, self.kind)),
            resources=nearest,
        )


class HandlerRegistry:
    """Handlers by queue and job name; registries of several modules merge by ``include``."""

    def __init__(self) -> None:
        self._handlers: dict[tuple[str | None, str], Handler] = {}
        self._scope = Scope()
        self._scopes: dict[Scope, None] = {self._scope: None}
        self.strategies = Strategies()

    def audio(self, *names: str, **options: Unpack[HandlerOptions]) -> Callable[[F], F]:
        """Register the decorated function for audio jobs of those names.

        The ``options`` are those of HandlerOptions. Raises ConfigurationError for what can't work,
        and DuplicateHandler where a name is taken.
        """
        return self._register("audio", names, options)

    def dialogue(self, *names: str, **options: Unpack[HandlerOptions]) -> Callable[[F], F]:
        """Register the decorated function for dialogue jobs; options as for ``audio``."""
        return self._register("dialogue", names, options)

    def image(self, *names: str, **options: Unpack[HandlerOptions]) -> Callable[[F], F]:
        """Register the decorated function for image jobs; options as for ``audio``."""
        return self._register("image", names, options)

    def course(self, *names: str, **options: Unpack[HandlerOptions]) -> Callable[[F], F]:
        """Register the decorated function for course jobs; options as for ``audio``."""
        return self._register("course", names, options)

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

        ``function(job, call_next)`` returns what is to be the result: of ``await call_next(job)``,
        or another. The first that is registered is the outermost; those of a registry are around
        those of the registries that it includes. Raises ConfigurationError for what can't be one.
        """
        if kind is not None and kind not in KINDS:
            msg = f"middleware(kind={kind!r}): expected one of {', '.join(KINDS)}, or None"
            raise ConfigurationError(msg)

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

    def include(self, other: HandlerRegistry) -> None:
        """Take over every handler of ``other``, or none: raises DuplicateHandler on a clash.

        Its lifespan and its middleware come with it, for its own handlers, and its backoff
        strategies for all.
        """
        for (queue, name), handler in other._handlers.items():
            self._check_free(queue, name, handler.function)
        self.strategies.include(other.strategies)
        self._scopes.update(other._scopes)
        for key, handler in other._handlers.items():
            scopes = tuple(dict.fromkeys((self._scope, *handler.scopes)))
            self._handlers[key] = dataclasses.replace(handler, scopes=scopes)

    @property
    def lifespans(self) -> list[tuple[Scope, Lifespan]]:
        """The lifespans of this registry and of those it includes, in the order of opening."""
        return [(scope, scope.lifespan) for scope in self._scopes if scope.lifespan is not None]

    @property
    def scopes(self) -> list[Scope]:
        """The scopes of this registry and of those it includes, its own first."""
        return list(self._scopes)

    def staged(self, opened: Mapping[Scope, Any]) -> HandlerRegistry:
        """The handlers as one worker runs them, whose lifespans gave ``opened``."""
        stage = HandlerRegistry()
        stage._handlers = {key: handler.staged(opened) for key, handler in self._handlers.items()}
        stage.strategies = self.strategies
        return stage

    def check_processes(self) -> None:
        """Raise ConfigurationError if a process could not import its handler.

        This can't be known earlier: a function has its name only when its decorators are done.
        """
        for handler in self:
            if handler.process is not None:
                import_name(handler.function)

    def find(self, queue: str, name: str) -> Handler | None:
        """The handler of jobs called ``name`` on ``queue``; one of that queue alone comes first."""
        return self._handlers.get((queue, name)) or self._handlers.get((None, name))

    def names_on(self, queue: str) -> list[str]:
        """The job names that are handled on ``queue``, in order."""
        return sorted({name for where, name in self._handlers if where in (None, queue)})

    def handlers_of(self, queue: str) -> list[Handler]:
        """The handlers that a job of ``queue`` may need."""
        return list(
            {h.key: h for (w, _), h in self._handlers.items() if w in (None, queue)}.values()
        )

    def __iter__(self) -> Iterator[Handler]:
        """Each handler once."""
        return iter({handler.key: handler for handler in self._handlers.values()}.values())

    def __len__(self) -> int:
        return len({handler.key for handler in self._handlers.values()})

    def _register(
        self, kind: str, names: Sequence[str], options: HandlerOptions
    ) -> Callable[[F], F]:
        _check_names(kind, names, options)

        def register(function: F) -> F:
            handler = _handler(kind, tuple(names), function, options, self._scope)
            for name in names:
                self._check_free(handler.queue, name, function)
            for name in names:
                self._handlers[handler.queue, name] = handler
            return function

        return register

    def _check_free(self, queue: str | None, name: str, function: Callable[..., Any]) -> None:
        known = self._handlers.get((queue, name))
        if known is not None and known.function is not function:
            where = f"on queue {queue!r}" if queue else "on any queue"
            msg = f"two handlers for {name!r} {where}: {known.place} and {place(function)}"
            raise DuplicateHandler(msg)


def _handler(
    kind: str,
    names: tuple[str, ...],
    function: Callable[..., Any],
    options: HandlerOptions,
    scope: Scope,
) -> Handler:
    where, queue = place(function), options.get("queue")
    return Handler(
        kind=kind,
        names=names,
        queue=queue,
        function=function,
        decode=decoder(payload_annotation(function, Job)),
        timeout=_checked_timeout(options.get("timeout"), where),
        concurrency=_checked_concurrency(options.get("concurrency"), where),
        threaded=_is_threaded(function, options.get("thread"), where),
        key=f"{where}/{kind}/{queue or '*'}/{','.join(names)}",
        place=where,
        process=checked_process(function, options.get("process"), thread=options.get("thread")),
        rate=_checked_rate(options.get("rate"), where),
        defaults=job_options(
            f"{where}: {kind}", {key: options.get(key) for key in JobPolicy.__annotations__}
        ),
        scopes=(scope,),
    )


def _check_names(kind: str, names: Sequence[object], options: HandlerOptions) -> None:
    if not names or not all(isinstance(name, str) and name for name in names):
        example = f'@handlers.{kind}("generate-{kind}")'
        msg = f"expected one or more job names, as in {example}; got {list(names)!r}"
        raise ConfigurationError(msg)
    if len(set(names)) != len(names):
        msg = f"a job name is given twice in {list(names)!r}"
        raise ConfigurationError(msg)
    unknown = [option for option in options if option not in HandlerOptions.__annotations__]
    if unknown:
        known = ", ".join(HandlerOptions.__annotations__)
        msg = f"{names[0]!r}: unknown option {unknown[0]!r}: expected some of {known}"
        raise ConfigurationError(msg)
    queue: object = options.get("queue")
    if queue is not None and not (isinstance(queue, str) and queue):
        msg = f"{names[0]!r}: queue={queue!r}: expected a queue's name, or None for every queue"
        raise ConfigurationError(msg)


def _checked_timeout(timeout: float | None, where: str) -> float | None:
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and 0 < timeout < float("inf")):
        msg = f"{where}: timeout={timeout!r}: expected seconds above 0, or None"
        raise ConfigurationError(msg)
    return timeout


def _checked_concurrency(concurrency: int | None, where: str) -> int | None:
    is_whole = isinstance(concurrency, int) and not isinstance(concurrency, bool)
    if concurrency is not None and not (is_whole and concurrency >= 1):
        msg = f"{where}: concurrency={concurrency!r}: expected 1 or more, or None"
        raise ConfigurationError(msg)
    return concurrency


def _checked_rate(rate: str | None, where: str) -> StartRate | None:
    try:
        return None if rate is None else parse_rate(rate)
    except ValueError as error:
        msg = f"{where}: rate: {error}"
        raise ConfigurationError(msg) from None


def _is_threaded(function: Callable[..., Any], thread: bool | None, where: str) -> bool:  # noqa: FBT001
    if is_async(function) and thread:
        msg = f"{where}: thread=True is for plain functions, and this one is async"
        raise ConfigurationError(msg)
    if not is_async(function) and thread is False:
        msg = f"{where}: a plain function blocks the loop: leave thread=False out"
        raise ConfigurationError(msg)
    return not is_async(function)
