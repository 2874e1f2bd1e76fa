"""Sets how often Python collects garbage: seldom during the start, as usual after it.

What is imported stays, and Python would look through it fifty times, which is a tenth of the time
that a start takes.
"""

from __future__ import annotations

import gc

# A start makes some 25,000 objects; with aiohttp it makes 45,000.
_SELDOM = 15_000
_usual: list[tuple[int, int, int]] = []


def look_seldom() -> None:
    """Let Python look for garbage once in 15,000 new objects, until ``look_as_usual``."""
    _usual[:] = [gc.get_threshold()]
    gc.set_threshold(_SELDOM)


def look_as_usual() -> None:
    """Look for garbage as before the start, and no longer through what has been imported so far.

    That would delay jobs by 10 to 100 ms each time, depending on the size of the application. What
    the application itself has set stays.
    """
    gc.freeze()
    if _usual and gc.get_threshold()[0] == _SELDOM:
        gc.set_threshold(*_usual[0])
