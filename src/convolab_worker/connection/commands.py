"""Commands: as bytes, and as entries of the list of those that are unanswered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

import hiredis

if TYPE_CHECKING:
    import asyncio

# Its answer's future, deadline, packed bytes and time-out in seconds. A plain tuple, since one is
# made for every command.
Unanswered: TypeAlias = tuple["asyncio.Future[Any]", float, bytes, float]


def pack(args: tuple[Any, ...]) -> bytes:
    """Return the command as the server reads it."""
    try:
        return cast("bytes", hiredis.pack_command(args))
    except UnicodeEncodeError:  # text that was made of bytes which are not UTF-8: the same bytes
        plain = [
            arg.encode("utf-8", "surrogateescape") if isinstance(arg, str) else arg for arg in args
        ]
        return cast("bytes", hiredis.pack_command(cast("Any", tuple(plain))))
