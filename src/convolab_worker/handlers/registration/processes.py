"""Handlers that run in processes: when a process is renewed, and how it finds its handler."""

from __future__ import annotations

import functools
import importlib
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.functions import is_async, place
from convolab_worker.payloads.annotation import layers
from convolab_worker.settings.units import is_number, is_whole

if TYPE_CHECKING:
    from collections.abc import Callable

_MAIN, _IMPORTED_MAIN = "__main__", "__mp_main__"  # multiprocessing calls the program __mp_main__

IMPORTING: ContextVar[bool] = ContextVar("convolab_worker_importing", default=False)
"""Whether this is a handler's process, and is importing the application."""


class Renewal(Struct, frozen=True, kw_only=True):
    """When a process that runs handlers is replaced: ``process=Renewal(jobs=100)``.

    After ``jobs`` jobs, or when a job leaves it with more than ``memory_mb`` megabytes (10⁶ bytes)
    of resident memory; whichever comes first, never in the middle of a job. Raises
    ConfigurationError for numbers that can't be.
    """

    jobs: int | None = None
    memory_mb: float | None = None

    def __post_init__(self) -> None:
        if self.jobs is not None and not (is_whole(self.jobs) and self.jobs >= 1):
            msg = f"Renewal(jobs={self.jobs!r}): expected 1 or more, or None"
            raise ConfigurationError(msg)
        memory = self.memory_mb
        if memory is not None and not (is_number(memory) and 0 < memory < float("inf")):
            msg = f"Renewal(memory_mb={memory!r}): expected megabytes above 0, or None"
            raise ConfigurationError(msg)

    def is_due(self, jobs: int, memory: int) -> bool:
        """Whether a process is to be replaced after so many jobs, with so many bytes."""
        too_many = self.jobs is not None and jobs >= self.jobs
        return too_many or (self.memory_mb is not None and memory > self.memory_mb * 1e6)


NEVER = Renewal()


class ImportName(NamedTuple):
    """How another process finds a function: by its name, below so many wrappers."""

    module: str
    name: str
    wrappers: int
    main: str | None = None
    """The program's file, if the function is in the program itself and not in a module."""


def checked_process(
    function: Callable[..., Any],
    process: bool | Renewal | None,  # noqa: FBT001
    *,
    thread: bool | None,
) -> Renewal | None:
    """How the processes of a handler are renewed; None for one that runs in this process.

    Raises ConfigurationError for what can't run in another process.
    """
    if process is None or process is False:
        return None
    where = place(function)
    given: object = process
    if given is not True and not isinstance(given, Renewal):
        msg = f"{where}: process={process!r}: expected True, or Renewal(jobs=…, memory_mb=…)"
        raise ConfigurationError(msg)
    if thread:
        msg = f"{where}: thread=True and process=True: expected one of them"
        raise ConfigurationError(msg)
    if is_async(function):
        msg = f"{where}: process=True is for plain functions, and this one is async"
        raise ConfigurationError(msg)
    name = getattr(function, "__qualname__", "<object>")
    if "<" in name:  # <locals>, <lambda>
        msg = (
            f"{where}: a process imports its handler by name, and can't import this one: expected "
            "a function at the top level of a module (functools.wraps, where it is decorated)"
        )
        raise ConfigurationError(msg)
    return NEVER if process is True else process


@functools.lru_cache(maxsize=1024)
def import_name(function: Callable[..., Any]) -> ImportName:
    """The name by which another process finds the function. Raises ConfigurationError."""
    module, name = function.__module__, function.__qualname__
    try:
        found = _attribute(sys.modules[module], name)
        wrappers = [layer is function for layer in layers(found)].index(True)
    except (KeyError, AttributeError, ValueError):
        msg = (
            f"{place(function)}: a process imports its handler by name, and {module}.{name} is "
            "not it: expected functools.wraps where it is decorated, and its name for it alone"
        )
        raise ConfigurationError(msg) from None
    if module != _MAIN:
        return ImportName(module, name, wrappers)
    main = sys.modules[_MAIN]
    if main.__spec__ is not None:  # python -m
        return ImportName(main.__spec__.name, name, wrappers)
    if getattr(main, "__file__", None) is None:
        msg = f"{place(function)}: a process imports its handler: expected it in a file"
        raise ConfigurationError(msg)
    return ImportName(module, name, wrappers, main.__file__)


def import_function(where: ImportName) -> Callable[..., Any]:
    """Import the function of that name, in a handler's process; raises what its module raises."""
    token = IMPORTING.set(True)
    try:
        module = (
            importlib.import_module(where.module) if where.main is None else _program(where.main)
        )
        *_, function = list(layers(_attribute(module, where.name)))[: where.wrappers + 1]
    finally:
        IMPORTING.reset(token)
    found: Callable[..., Any] = function
    return found


def is_program(module: str) -> bool:
    """Whether that is the program's name in a handler's process, where it is not ``__main__``."""
    spec = sys.modules[_MAIN].__spec__
    return module == _IMPORTED_MAIN or (spec is not None and module == spec.name)


def _program(file: str) -> Any:
    """The program itself as a module, in which ``__name__`` is not ``__main__``."""
    from importlib.util import module_from_spec, spec_from_file_location

    if _IMPORTED_MAIN not in sys.modules:
        spec = spec_from_file_location(_IMPORTED_MAIN, file)
        if spec is None or spec.loader is None:
            msg = f"{file} can't be imported"
            raise ImportError(msg)
        module = module_from_spec(spec)
        # Objects pickled under one of the two names are found under the other.
        before, sys.modules[_MAIN] = sys.modules[_MAIN], module
        sys.modules[_IMPORTED_MAIN] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules[_MAIN] = before
            del sys.modules[_IMPORTED_MAIN]
            raise
    return sys.modules[_IMPORTED_MAIN]


def _attribute(module: Any, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), module)
