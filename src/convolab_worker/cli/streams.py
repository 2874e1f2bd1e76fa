"""Standard input, output and error, which may be missing, full, or pipes that nobody reads.

A stream that can't be written to must not change how the process ends: its text is dropped.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO


def open_missing() -> None:
    """Open the null device as each stream that the process was started without (``2>&-``).

    Otherwise sockets would get the numbers of the streams. What a library prints would then go to
    Redis, and libuv ends the process when it closes such a socket.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            os.set_inheritable(number, True)  # noqa: FBT003 - for the programs that handlers start
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def tell(text: str) -> None:
    """Write a line to standard error."""
    with suppress(OSError, ValueError):  # ValueError: the application has closed it
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def flush() -> None:
    """Write what Python keeps of standard output and error.

    What can't be written is dropped, since Python would try once more when it exits, and end with
    an exit code of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            discard(stream)


def discard(stream: TextIO) -> None:
    """Send the stream's text to the null device: what it still keeps, and what comes later."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
