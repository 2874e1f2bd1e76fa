"""What a handler asks for as a step, checked before anything is called."""

from __future__ import annotations

import functools
import inspect
import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from convolab_worker.bullmq.protocol.keywords import job_options
from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.functions import checked_timeout
from convolab_worker.handlers.retry import retry_delay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LONGEST_NAME = 200
_SURROGATE = re.compile("[\ud800-\udfff]")  # what UTF-8 can't carry
_OPTIONS = ("attempts", "backoff", "timeout")


class StepCall(Struct, frozen=True, kw_only=True):
    """A step as its handler asks for it.

    ``policy`` are its attempts and backoff as BullMQ's options; ``timeout`` is in seconds.
    """

    name: str
    function: Callable[..., Any]
    policy: Mapping[str, Any]
    timeout: float | None


def step_call(name: str, function: Any, *args: Any, **kwargs: Any) -> StepCall:
    """Return the step of those arguments of ``Job.step``. Raises ConfigurationError."""
    check_name(name)
    if not callable(function):
        if inspect.iscoroutine(function):
            function.close()
        msg = (
            f"step {name!r}: expected a function and then its arguments, "
            f"got {type(function).__name__}"
        )
        raise ConfigurationError(msg)
    own = {what: kwargs.pop(what, None) for what in _OPTIONS if what in kwargs}
    for what in own:
        _check_unclaimed(name, function, what)
    timeout = checked_timeout(own.pop("timeout", None), f"step {name!r}")
    policy = job_options(f"step {name!r}", own)
    if "backoff" in policy and policy.get("attempts", 1) == 1:
        msg = f"step {name!r}: a backoff is for further attempts: expected attempts=2 or more"
        raise ConfigurationError(msg)
    retry_delay(policy, 0, random=0.0)  # raises for a wrong backoff
    bound = functools.partial(function, *args, **kwargs) if args or kwargs else function
    return StepCall(name=name, function=bound, policy=policy, timeout=timeout)


def check_name(name: object) -> None:
    """Raise ConfigurationError for what can't be the name of a step."""
    is_text = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME
    if not is_text or _SURROGATE.search(str(name)):
        msg = f"step {name!r}: expected a name of 1 to {_LONGEST_NAME} characters"
        raise ConfigurationError(msg)


def _check_unclaimed(name: str, function: Callable[..., Any], what: str) -> None:
    """Raise ConfigurationError if the function takes an argument of this name, too."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a built-in without a signature
        return
    if any(each.name == what or each.kind is each.VAR_KEYWORD for each in parameters):
        msg = (
            f"step {name!r}: both the step and its function can take {what}=: for the function's, "
            f"functools.partial(function, {what}=...); for the step's, a function without it"
        )
        raise ConfigurationError(msg)
