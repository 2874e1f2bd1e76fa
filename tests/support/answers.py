"""What our scripts answer where BullMQ's scripts of the same name answer it their way."""

from __future__ import annotations

from typing import Any

_BULLMQS_VALUES = 4
_NOTHING = [0] * _BULLMQS_VALUES


def as_bullmqs(answer: Any) -> Any:
    """An answer without our count of the commands; 0 for what stands for "no job", as 0 does."""
    if isinstance(answer, list) and len(answer) == _BULLMQS_VALUES + 1:
        answer = answer[:_BULLMQS_VALUES]
    return 0 if answer == _NOTHING else answer
