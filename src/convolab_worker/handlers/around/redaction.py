"""Functions that take secrets out of what the console shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from convolab_worker._logs import Log
from convolab_worker.handlers.around.hooks import Hooks
from convolab_worker.handlers.functions import place

Redact = Callable[["Shown"], Any]
RedactT = TypeVar("RedactT", bound=Redact)
NOT_SHOWN = "[not shown]"

_log = Log()


class Shown(Struct, frozen=True, kw_only=True):
    """A value of a job that the console is about to show.

    ``what`` is ``data``, ``result``, ``progress`` or ``step``, whose ``value`` is any JSON, or
    ``reason``, ``stack`` or ``log``, whose ``value`` is text. ``name`` and ``queue`` are the job's.
    """

    what: str
    value: Any
    name: str
    queue: str


class Redactions(Hooks[Shown]):
    """Functions that each value goes through before it is shown."""

    def __init__(self) -> None:
        super().__init__("redact", "the Shown")

    def applied(self, shown: Shown) -> Any:
        """Return what may be shown. If a function raises, nothing is shown, and that is logged."""
        for function in self.functions:
            try:
                shown = replace(shown, value=function(shown))
            except Exception as error:  # noqa: BLE001 - whatever it is, the value stays hidden
                _log.error("redact.raised", hook=place(function), exc_info=error)
                return NOT_SHOWN
        return shown.value
