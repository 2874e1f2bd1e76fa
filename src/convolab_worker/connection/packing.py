"""Commands as bytes."""

from __future__ import annotations

from typing import Any, cast

import hiredis


def pack(args: tuple[Any, ...]) -> bytes:
    """Return the command as the server reads it."""
    try:
        return cast("bytes", hiredis.pack_command(args))
    except UnicodeEncodeError:  # text that was made of bytes which are not UTF-8: the same bytes
        plain = [
            arg.encode("utf-8", "surrogateescape") if isinstance(arg, str) else arg for arg in args
        ]
        return cast("bytes", hiredis.pack_command(cast("Any", tuple(plain))))
