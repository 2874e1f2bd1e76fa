"""HandlerRegistry: which function runs a job, by its queue and name."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from convolab_worker.errors import ConfigurationError, DuplicateHandler
from convolab_worker.job import Job
from convolab_worker.payloads import payload_annotation, validator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

F = TypeVar("F", bound="Callable[..., Any]")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Handler:
    """A registered function, and how it is to be run.

    ``timeout`` is in seconds, None for no limit; ``concurrency`` is the most jobs of this handler
    at once, None for the worker's own limit; ``queue`` is None for a handler of any queue.
    """

    kind: str
    names: tuple[str, ...]
    queue: str | None
    function: Callable[..., Any]
    validate: Callable[[Any], Any]
    timeout: float | None
    concurrency: int | None
    threaded: bool
    key: str
    place: str


class HandlerRegistry:
    """Handlers by queue and job name; registries of several modules merge by ``include``."""

    def __init__(self) -> None:
        """Start with no handler."""
        self._handlers: dict[tuple[str | None, str], Handler] = {}

    def audio(
        self,
        *names: str,
        queue: str | None = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        thread: bool | None = None,
    ) -> Callable[[F], F]:
        """Register the decorated function for audio jobs of those names.

        ``queue`` restricts it to one queue. ``timeout`` (seconds) ends a job that runs longer;
        ``concurrency`` is the most jobs of this handler at once. A plain function runs in a
        thread of its own, and ``thread=True`` only says so. Raises ConfigurationError for what
        can't work, and DuplicateHandler where a name is taken.
        """
        return self._registrar("audio", names, queue, timeout, concurrency, thread)

    def dialogue(
        self,
        *names: str,
        queue: str | None = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        thread: bool | None = None,
    ) -> Callable[[F], F]:
        """Register the decorated function for dialogue jobs; arguments as for ``audio``."""
        return self._registrar("dialogue", names, queue, timeout, concurrency, thread)

    def image(
        self,
        *names: str,
        queue: str | None = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        thread: bool | None = None,
    ) -> Callable[[F], F]:
        """Register the decorated function for image jobs; arguments as for ``audio``."""
        return self._registrar("image", names, queue, timeout, concurrency, thread)

    def course(
        self,
        *names: str,
        queue: str | None = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        thread: bool | None = None,
    ) -> Callable[[F], F]:
        """Register the decorated function for course jobs; arguments as for ``audio``."""
        return self._registrar("course", names, queue, timeout, concurrency, thread)

    def include(self, other: HandlerRegistry) -> None:
        """Take over every handler of ``other``, or none: raises DuplicateHandler on a clash."""
        for (queue, name), handler in other._handlers.items():
            self._check_free(queue, name, handler.function)
        self._handlers.update(other._handlers)

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
        """How many handlers there are."""
        return len({handler.key for handler in self._handlers.values()})

    def _registrar(
        self,
        kind: str,
        names: Sequence[str],
        queue: str | None,
        timeout: float | None,
        concurrency: int | None,
        thread: bool | None,  # noqa: FBT001
    ) -> Callable[[F], F]:
        _check_names(kind, names, queue)

        def register(function: F) -> F:
            handler = Handler(
                kind=kind,
                names=tuple(names),
                queue=queue,
                function=function,
                validate=validator(payload_annotation(function, Job)),
                timeout=_checked_timeout(timeout, function),
                concurrency=_checked_concurrency(concurrency, function),
                threaded=_is_threaded(function, thread),
                key=f"{_place(function)}/{kind}/{queue or '*'}/{','.join(names)}",
                place=_place(function),
            )
            for name in names:
                self._check_free(queue, name, function)
            for name in names:
                self._handlers[queue, name] = handler
            return function

        return register

    def _check_free(self, queue: str | None, name: str, function: Callable[..., Any]) -> None:
        known = self._handlers.get((queue, name))
        if known is not None and known.function is not function:
            where = f"on queue {queue!r}" if queue else "on any queue"
            msg = f"two handlers for {name!r} {where}: {known.place} and {_place(function)}"
            raise DuplicateHandler(msg)


def _check_names(kind: str, names: Sequence[object], queue: object) -> None:
    if not names or not all(isinstance(name, str) and name for name in names):
        example = f'@handlers.{kind}("generate-{kind}")'
        msg = f"expected one or more job names, as in {example}; got {list(names)!r}"
        raise ConfigurationError(msg)
    if len(set(names)) != len(names):
        msg = f"a job name is given twice in {list(names)!r}"
        raise ConfigurationError(msg)
    if queue is not None and not (isinstance(queue, str) and queue):
        msg = f"{names[0]!r}: queue={queue!r}: expected a queue's name, or None for every queue"
        raise ConfigurationError(msg)


def _checked_timeout(timeout: float | None, function: Callable[..., Any]) -> float | None:
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and 0 < timeout < float("inf")):
        msg = f"{_place(function)}: timeout={timeout!r}: expected seconds above 0, or None"
        raise ConfigurationError(msg)
    return timeout


def _checked_concurrency(concurrency: int | None, function: Callable[..., Any]) -> int | None:
    is_whole = isinstance(concurrency, int) and not isinstance(concurrency, bool)
    if concurrency is not None and not (is_whole and concurrency >= 1):
        msg = f"{_place(function)}: concurrency={concurrency!r}: expected 1 or more, or None"
        raise ConfigurationError(msg)
    return concurrency


def _is_threaded(function: Callable[..., Any], thread: bool | None) -> bool:  # noqa: FBT001
    is_async = any(inspect.iscoroutinefunction(layer) for layer in _layers(function))
    if is_async and thread:
        msg = f"{_place(function)}: thread=True is for plain functions, and this one is async"
        raise ConfigurationError(msg)
    if not is_async and thread is False:
        msg = f"{_place(function)}: a plain function blocks the loop: leave thread=False out"
        raise ConfigurationError(msg)
    return not is_async


def _layers(function: Callable[..., Any]) -> Iterator[Any]:
    """The function, and what it wraps: of a partial, a decorated function, a callable object."""
    layer: Any = function
    while layer is not None:
        yield layer
        if isinstance(layer, functools.partial):
            layer = layer.func
        elif inspect.isroutine(layer) or inspect.isclass(layer):
            layer = getattr(layer, "__wrapped__", None)
        else:
            layer = getattr(layer, "__wrapped__", None) or getattr(type(layer), "__call__", None)  # noqa: B004


def _place(function: Callable[..., Any]) -> str:
    """Where the function was written: module, name and line."""
    *_, innermost = _layers(function)
    code = getattr(innermost, "__code__", None)
    line = f":{code.co_firstlineno}" if code is not None else ""
    name = getattr(innermost, "__qualname__", repr(innermost))
    return f"{getattr(innermost, '__module__', '?')}.{name}{line}"
