"""Defines every option once, with its variable, unit and range, and reads their values.

It connects to nothing. Flags, help texts and the documentation are made from its table.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convolab_worker.settings.options import (
        OPTIONS,
        Option,
        Settings,
        format_duration,
        mask_url,
        parse_duration,
    )

__all__ = ["OPTIONS", "Option", "Settings", "format_duration", "mask_url", "parse_duration"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.options"), name)
    globals()[name] = value
    return value
