"""What our scripts answer, as BullMQ's scripts of the same name answer it."""

from __future__ import annotations

from typing import Any

_NOTHING = [0, 0, 0, 0]


def as_bullmqs(answer: Any) -> Any:
    """An answer to the worker; 0 for what stands for "no job", as 0 does."""
    return 0 if answer == _NOTHING else answer
