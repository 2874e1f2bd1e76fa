"""Chance for delays, so that processes that failed together do not come back together."""

from __future__ import annotations

import os

_BYTES = 6
_END = 1 << 8 * _BYTES


def chance() -> float:
    """Return a number from 0 to 1 by chance, 1 excluded.

    It comes from the system: importing ``random`` would cost every start 1 ms and 0.2 MB.
    """
    return int.from_bytes(os.urandom(_BYTES)) / _END
