"""How long something took, without the pauses of the machine that it ran on."""

from __future__ import annotations

import threading
import time
from typing import Self

_TICK_SECONDS = 0.01
# A sleep of one tick takes longer where this process was not given a processor. So much of it is
# counted, which a machine that is merely busy takes; the rest is the machine's, and nobody's fault.
_LONGEST_TICK_SECONDS = 0.1


class Stopwatch:
    """Counts ``seconds`` while its block runs, but not those in which this process stood still.

    A bound for them holds on a machine that pauses, and still finds what waits for too long: a wait
    is counted whole. Lower bounds need no stopwatch. ``paused`` are the seconds that were left out;
    ``longest_lag`` is how late, at most, this process ran, as others on this machine do too.
    """

    def __init__(self) -> None:
        self._counted = self.paused = self.longest_lag = 0.0
        self._last = 0.0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._tick, name="stopwatch", daemon=True)

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """Those since the block began, or of the whole block once it is over."""
        if not self._over.is_set():
            self._count()
        return self._counted

    def _tick(self) -> None:
        while not self._over.wait(_TICK_SECONDS):
            self._count()
        self._count()

    def _count(self) -> None:
        with self._lock:
            now = time.monotonic()
            counted = min(now - self._last, _LONGEST_TICK_SECONDS)
            self._counted += counted
            self.paused += now - self._last - counted
            self.longest_lag = max(self.longest_lag, now - self._last - _TICK_SECONDS)
            self._last = now
