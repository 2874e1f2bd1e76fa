"""A registered function and how it is to be run: what was declared, checked once."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field, structs

from convolab_worker.bullmq.jobs.job_type import JobType, Unresolved
from convolab_worker.bullmq.protocol.keyword_types import JobPolicy
from convolab_worker.bullmq.protocol.keywords import job_options
from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.functions import checked_timeout, has_yield, is_async, place
from convolab_worker.handlers.job.job import Job
from convolab_worker.handlers.registration.processes import Renewal, checked_process
from convolab_worker.payloads.annotation import (
    annotation_name,
    fits,
    payload_annotation,
    result_annotation,
)
from convolab_worker.settings.units import StartRate, is_whole, parse_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convolab_worker.handlers.around.lifespan import Lifespan
    from convolab_worker.handlers.around.middleware import Middleware

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
        """The handler as a worker runs it; ``opened`` has what its lifespans gave."""
        around = [ware for scope in self.scopes for ware in scope.middleware]
        nearest = next((opened[scope] for scope in reversed(self.scopes) if scope in opened), None)
        return structs.replace(
            self,
            middleware=tuple(ware for ware in around if ware.kind in (None, self.kind)),
            resources=nearest,
        )


def make_handler(
    kind: str,
    names: tuple[str, ...],
    function: Callable[..., Any],
    options: HandlerOptions,
    scope: Scope,
    job_type: JobType[Any, Any],
) -> Handler:
    """The handler. Raises ConfigurationError for options that can't work with the function."""
    where, queue = place(function), options.get("queue")
    return Handler(
        kind=kind,
        names=names,
        queue=queue,
        function=function,
        job_type=job_type,
        decode=job_type.decode,
        timeout=checked_timeout(options.get("timeout"), where),
        concurrency=_checked_concurrency(options.get("concurrency"), where),
        threaded=_is_threaded(function, options.get("thread"), where),
        key=f"{where}/{kind}/{queue or '*'}/{','.join(names)}",
        place=where,
        process=checked_process(function, options.get("process"), thread=options.get("thread")),
        rate=_checked_rate(options.get("rate"), where),
        defaults=job_options(f"{where}: {names[0]!r}", _policy(options)),
        scopes=(scope,),
    )


def job_type_of(
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
        job_options(f"{place(function)}: {name!r}", policy)  # the error names the handler then
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


def with_declared(declared: JobType[Any, Any], options: HandlerOptions) -> HandlerOptions:
    """The options and those of the declaration. Raises ConfigurationError if they differ."""
    own = {"queue": declared.queue, **declared.options}
    for what, value in own.items():
        given = options.get(what)
        if given is not None and given != value:
            msg = f"{declared.name!r}: {what}={given!r}: {declared!r} says {value!r}: say it once"
            raise ConfigurationError(msg)
    known = {what: value for what, value in own.items() if what in HandlerOptions.__annotations__}
    return {**options, **known}  # type: ignore[typeddict-item]


def check_names(kind: str, names: Sequence[object], options: HandlerOptions) -> tuple[str, ...]:
    """The names of the jobs. Raises ConfigurationError for names or options that can't be."""
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
    if queue is not None and not (isinstance(queue, str) and queue and ":" not in queue):
        expected = "a queue's name, without a colon, or None for every queue"
        msg = f"{names[0]!r}: queue={queue!r}: expected {expected}"
        raise ConfigurationError(msg)
    return checked


def _checked_concurrency(concurrency: int | None, where: str) -> int | None:
    if concurrency is not None and not (is_whole(concurrency) and concurrency >= 1):
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
    if has_yield(function):
        msg = f"{where}: expected a function that returns its result, and this one has a yield"
        raise ConfigurationError(msg)
    if is_async(function) and thread:
        msg = f"{where}: thread=True is for plain functions, and this one is async"
        raise ConfigurationError(msg)
    if not is_async(function) and thread is False:
        msg = f"{where}: a plain function blocks the loop: leave thread=False out"
        raise ConfigurationError(msg)
    return not is_async(function)
