"""The numbers that ``H`` stands for in a cron pattern: the same for the same seed, as in Node."""

from __future__ import annotations

import struct

_WORD = 0xFFFFFFFF


class HashedNumbers:
    """Numbers from 0 to 1 that follow from ``seed``.

    They are those of cron-parser's option ``hashSeed``, and must stay so: FNV-1a makes 32 bits of
    the seed's UTF-16 code units, and the generator called mulberry32 makes numbers of these.
    """

    def __init__(self, seed: str) -> None:
        state = 2166136261
        raw = seed.encode("utf-16-le", "surrogatepass")
        for (unit,) in struct.iter_unpack("<H", raw):
            state = (state ^ unit) * 16777619 & _WORD
        self._state = state

    def next_number(self) -> float:
        """Returns the next number, 0 <= number < 1."""
        self._state = self._state + 0x6D2B79F5 & _WORD
        mixed = self._state
        mixed = (mixed ^ mixed >> 15) * (mixed | 1) & _WORD
        mixed ^= mixed + ((mixed ^ mixed >> 7) * (mixed | 61) & _WORD) & _WORD
        return (mixed ^ mixed >> 14) / 2**32
