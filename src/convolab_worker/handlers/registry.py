"""HandlerRegistry: which function runs a job, by its queue and name."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack, overload

from msgspec import Struct, field, structs

from convolab_worker.bullmq.job_type import JobType, Unresolved, remember
from convolab_worker.bullmq.protocol.keywords import BUILT_IN, JobPolicy, job_options
from convolab_worker.errors import ConfigurationError, DuplicateHandler
from convolab_worker.handlers.functions import is_async, place
from convolab_worker.handlers.hooks import Hooks
from convolab_worker.handlers.job import Job
from convolab_worker.handlers.lifespan import Lifespan, LifespanFunction
from convolab_worker.handlers.middleware import Middleware, MiddlewareFunction
from convolab_worker.handlers.processes import Renewal, checked_process, import_name
from convolab_worker.handlers.retry import S, Strategies
from convolab_worker.payloads.annotation import (
    annotation_name,
    fits,
    payload_annotation,
    result_annotation,
)
from convolab_worker.settings.kinds import StartRate, parse_rate

if TYPE_CHECKING:
    from collections.abc import (
        Awaitable,
        Callable,
        Collection,
        Coroutine,
        Iterator,
        Mapping,
        Sequence,
    )

    from convolab_worker.handlers.failures import Failure
    from convolab_worker.handlers.sync_job import SyncJob

F = TypeVar("F", bound="Callable[[SyncJob[Any, Any]], Any]")
L = TypeVar("L", bound=LifespanFunction)
M = TypeVar("M", bound=MiddlewareFunction)
H = TypeVar("H", bound="Callable[[Failure], Awaitable[None] | None]")
N = TypeVar("N", bound="Callable[[float], Awaitable[None] | None]")
P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")
X = TypeVar("X")
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
KINDS = ("audio", "dialogue", "image", "course")


class Scope(Struct, eq=False):
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


class Handler(Struct, frozen=True, kw_only=True, eq=False):
    """A registered function, and how it is to be run.

    ``timeout`` is in seconds, None for no limit; ``concurrency`` is the most jobs of this handler
    at once, None for the worker's own limit; ``queue`` is None for a handler of any queue.
    ``process`` says when the processes that it runs in are renewed, None for one that runs here.
    ``job_type`` is the declaration of its jobs: its own, or one made of its annotations.
    ``defaults`` are BullMQ's job options for jobs whose own say nothing.
    ``scopes`` are those of the registries that it is in, the outermost first; ``middleware`` and
    ``resources`` are what they come to in one worker (see ``HandlerRegistry.staged``).
    """

    kind: str
    names: tuple[str, ...]
    queue: str | None
    function: Callable[..., Any]
    job_type: JobType[Any, Any]
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
        return structs.replace(
            self,
            middleware=tuple(ware for ware in around if ware.kind in (None, self.kind)),
            resources=nearest,
        )


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


class HandlerRegistry:
    """Handlers by queue and job name; registries of several modules merge by ``include``."""

    def __init__(self) -> None:
        self._handlers: dict[tuple[str | None, str], Handler] = {}
        self._scope = Scope()
        self._scopes: dict[Scope, None] = {self._scope: None}
        self.strategies = Strategies()
        self.failure_hooks: Hooks[Failure] = Hooks("on_failure", "the Failure")
        self.next_due_hooks: Hooks[float] = Hooks("on_next_due", "the time in epoch seconds")

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
        ConfigurationError for a kind that is no word.
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

        ``function(job, call_next)`` returns what is to be the result: of ``await call_next(job)``,
        or another. The first that is registered is the outermost; those of a registry are around
        those of the registries that it includes. Raises ConfigurationError for what can't be one;
        a kind that no handler has is an error when a worker starts.
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

        It asks a task queue, or whatever starts the worker, for a call at that time: a delayed
        job or a retry is due, a rate limit ends, or the lock of a job that another worker has. It
        is called at the end of a drain, before a held request is answered, before a worker falls
        asleep, and when one stops: once for each such time, in whole seconds, and for none that is
        later than one that is still to come. It may be plain or async; it runs in the event loop,
        for 5 s at most. What it raises is logged, changes nothing, and the next end of a drain
        calls it again.
        """
        return self.next_due_hooks.register(hook)

    def include(self, other: HandlerRegistry) -> None:
        """Take over every handler of ``other``, or none: raises DuplicateHandler on a clash.

        Its lifespan and its middleware come with it, for its own handlers, and its backoff
        strategies and its ``on_failure`` and ``on_next_due`` functions for all.
        """
        for (queue, name), handler in other._handlers.items():
            self._check_free(queue, name, handler.function)
        self.strategies.include(other.strategies)
        self.failure_hooks.include(other.failure_hooks)
        self.next_due_hooks.include(other.next_due_hooks)
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
        """The handlers as one worker runs them, whose lifespans gave ``opened``."""
        stage = HandlerRegistry()
        stage._handlers = {key: handler.staged(opened) for key, handler in self._handlers.items()}
        stage.strategies = self.strategies
        stage.failure_hooks = self.failure_hooks
        return stage

    def check(self) -> None:
        """Raise ConfigurationError for what is only known once all is registered.

        A handler's backoff names a strategy that nobody gave, a middleware is for a kind that no
        handler has, or a process could not import its handler.
        """
        self._check_backoffs()
        self._check_processes()
        kinds = {*KINDS, *(handler.kind for handler in self)}
        for ware in (ware for scope in self._scopes for ware in scope.middleware):
            if ware.kind is not None and ware.kind not in kinds:
                msg = (
                    f"{ware.place}: middleware(kind={ware.kind!r}): no handler has that kind; "
                    f"expected one of {', '.join(sorted(kinds))}"
                )
                raise ConfigurationError(msg)

    def _check_processes(self) -> None:
        # This can't be known earlier: a function has its name only when its decorators are done.
        for handler in self:
            if handler.process is not None:
                import_name(handler.function)

    def _check_backoffs(self) -> None:
        known = {*BUILT_IN, *self.strategies}
        for handler in self:
            name = handler.defaults.get("backoff", {}).get("type")
            if isinstance(name, str) and name not in known:
                msg = (
                    f"{handler.place}: no strategy is called {name!r}, its backoff: "
                    f"register one with @handlers.backoff({name!r})"
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
        return list(
            {h.key: h for (w, _), h in self._handlers.items() if w in (None, queue)}.values()
        )

    def unreachable(self, queues: Collection[str]) -> list[Handler]:
        """The handlers that no job of these queues can need: they are bound to another queue."""
        return [each for each in self if each.queue is not None and each.queue not in queues]

    def __iter__(self) -> Iterator[Handler]:
        """Each handler once."""
        return iter({handler.key: handler for handler in self._handlers.values()}.values())

    def __len__(self) -> int:
        return len({handler.key for handler in self._handlers.values()})

    def _register(
        self, kind: str, names: Sequence[str | JobType[Any, Any]], options: HandlerOptions
    ) -> Callable[[F], F]:
        declared = names[0] if names and isinstance(names[0], JobType) else None
        checked = _check_names(
            kind, [declared.name, *names[1:]] if declared is not None else names, options
        )
        if declared is not None:
            options = _with_declared(declared, options)

        def register(function: F) -> F:
            job_type = _job_type(checked[0], function, options, declared)
            handler = _handler(kind, checked, function, options, self._scope, job_type)
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


def _handler(
    kind: str,
    names: tuple[str, ...],
    function: Callable[..., Any],
    options: HandlerOptions,
    scope: Scope,
    job_type: JobType[Any, Any],
) -> Handler:
    where, queue = place(function), options.get("queue")
    return Handler(
        kind=kind,
        names=names,
        queue=queue,
        function=function,
        job_type=job_type,
        decode=job_type.decode,
        timeout=_checked_timeout(options.get("timeout"), where),
        concurrency=_checked_concurrency(options.get("concurrency"), where),
        threaded=_is_threaded(function, options.get("thread"), where),
        key=f"{where}/{kind}/{queue or '*'}/{','.join(names)}",
        place=where,
        process=checked_process(function, options.get("process"), thread=options.get("thread")),
        rate=_checked_rate(options.get("rate"), where),
        defaults=job_options(f"{where}: {names[0]!r}", _policy(options)),
        scopes=(scope,),
    )


def _job_type(
    name: str,
    function: Callable[..., Any],
    options: HandlerOptions,
    declared: JobType[Any, Any] | None,
) -> JobType[Any, Any]:
    """The declaration that the function was registered with, or one made of its annotations."""
    payload = payload_annotation(function, Job)

    def resolve() -> Any:
        return result_annotation(function, Job)

    result: Any = Unresolved(resolve)  # until somebody asks for it: a start need not wait
    # The names that a running function has defined are there now, and not later.
    if declared is not None or "<locals>" in getattr(function, "__qualname__", "<locals>"):
        with suppress(ConfigurationError):
            result = resolve()
    if declared is None:
        policy: Any = _policy(options)
        job_options(f"{place(function)}: {name!r}", policy)  # an error there names the handler
        made: JobType[Any, Any] = JobType(
            name, payload, result, queue=options.get("queue"), **policy
        )
        return made
    for what, ok, given, expected in (
        ("takes", fits(declared.payload, payload), payload, declared.payload),
        ("gives", fits(result, declared.result), result, declared.result),
    ):
        if not ok:
            msg = (
                f"{place(function)}: {what} {annotation_name(given)}; "
                f"expected {annotation_name(expected)}, as {declared!r} says"
            )
            raise ConfigurationError(msg)
    return declared


def _policy(options: HandlerOptions) -> dict[str, Any]:
    return {what: options.get(what) for what in JobPolicy.__annotations__}


def _with_declared(declared: JobType[Any, Any], options: HandlerOptions) -> HandlerOptions:
    """The options, with those of the declaration. Raises ConfigurationError if they differ."""
    own = {"queue": declared.queue, **declared.options}
    for what, value in own.items():
        given = options.get(what)
        if given is not None and given != value:
            msg = f"{declared.name!r}: {what}={given!r}: {declared!r} says {value!r}: say it once"
            raise ConfigurationError(msg)
    known = {what: value for what, value in own.items() if what in HandlerOptions.__annotations__}
    return {**options, **known}  # type: ignore[typeddict-item]


def _checked_kind(where: str, kind: object) -> str:
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        msg = f"{where}(kind={kind!r}): expected a word, such as 'video'"
        raise ConfigurationError(msg)
    return kind


def _check_names(kind: str, names: Sequence[object], options: HandlerOptions) -> tuple[str, ...]:
    checked = tuple(name for name in names if isinstance(name, str) and name)
    if not names or len(checked) < len(names):
        method = kind if kind in KINDS else "job"
        example = f'@handlers.{method}("generate-{kind}")'
        msg = f"expected one or more job names, as in {example}; got {list(names)!r}"
        raise ConfigurationError(msg)
    if len(set(checked)) != len(checked):
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
    return checked


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
