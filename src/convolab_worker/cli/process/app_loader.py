"""Imports the application's registry from ``MODULE:REGISTRY``, and says what is wrong with it."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

from convolab_worker.cli.process.signals import Stopped
from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.registration.registry import HandlerRegistry
from convolab_worker.settings.kinds import suggestion

if TYPE_CHECKING:
    from types import ModuleType


def load_app(where: str) -> HandlerRegistry:
    """Return the registry at ``where``, which is ``MODULE:ATTRIBUTE`` with dots allowed in both.

    The attribute is a HandlerRegistry, or a function without arguments that returns one. The
    current directory comes first in the search for the module. Raises ConfigurationError, with
    the traceback in it if the module's own code failed.
    """
    name, _, attribute = where.partition(":")
    module = _import(name)
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigurationError(_missing(module, attribute)) from None
    if not isinstance(found, HandlerRegistry) and callable(found):
        found = _call(found, where)
    if isinstance(found, HandlerRegistry):
        if len(found) == 0:  # a worker with it would fail every job that it fetches
            msg = f"{where} has no handlers: expected at least one"
            raise ConfigurationError(msg)
        return found
    if inspect.iscoroutine(found):
        found.close()  # or Python would warn that it was never awaited
    msg = f"{where} is {_article(found)}: expected a HandlerRegistry or a function that returns one"
    raise ConfigurationError(msg + _candidates(module))


def _import(name: str) -> ModuleType:
    directory = os.getcwd()  # noqa: PTH109 - sys.path holds text
    if directory not in sys.path:
        sys.path.insert(0, directory)
    if "/" in name or name.startswith("."):
        raise ConfigurationError(_not_found(name, name, directory))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(_not_found(name, error.name, directory)) from None
        failure = _own_failure(f"importing {name} failed", error)
    except Stopped:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - its traceback is shown
        failure = _own_failure(f"importing {name} failed", error)
    raise failure


def _call(factory: Any, where: str) -> Any:
    try:
        return factory()
    except Stopped:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - its traceback is shown
        failure = _own_failure(f"calling {where}() failed", error)
    raise failure


def _not_found(name: str, missing: str, directory: str) -> str:
    hint = ""
    if name.endswith(".py") or "/" in name:
        dotted = name.removesuffix(".py").strip("./").replace("/", ".")
        hint = f"; did you mean {dotted}? A module is named with dots and without .py"
    return f"module {missing} not found in {directory} or in what is installed{hint}"


def _missing(module: ModuleType, attribute: str) -> str:
    near = suggestion(attribute, [name for name in vars(module) if not name.startswith("_")])
    return f"{module.__name__} has no {attribute}" + (_candidates(module) or near)


def _candidates(module: ModuleType) -> str:
    """Return the end of a message that lists a module's registries; empty if it has none."""
    names = [name for name, value in vars(module).items() if isinstance(value, HandlerRegistry)]
    if not names:
        return ""
    return f"; its registries: {', '.join(f'{module.__name__}:{name}' for name in sorted(names))}"


def _own_failure(what: str, error: BaseException) -> ConfigurationError:
    """Return an error with the traceback, which starts in the application's own code."""
    trace = error.__traceback__
    while trace is not None and _is_machinery(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    return ConfigurationError(f"{what}:\n{''.join(lines).rstrip()}")


def _is_machinery(filename: str) -> bool:
    return filename in {__file__, importlib.__file__} or filename.startswith("<frozen importlib")


def _article(value: object) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
