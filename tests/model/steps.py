"""Every step, so that a plan that is printed can be pasted."""

from __future__ import annotations

from tests.model.clients import Add, Cancel, CloseClient, HangUp, Look, Open, Result, Schedule
from tests.model.events import (
    Arm,
    Cut,
    Flush,
    ForgetScripts,
    Freeze,
    Lag,
    Let,
    Limit,
    LoseMarker,
    Pause,
    RateLimit,
    Refuse,
    Spoil,
    Stall,
    Until,
)
from tests.model.workers import CancelRun, Drain, Hold, HoldNext, Start, Stop, Wake

__all__ = [
    "Add",
    "Arm",
    "Cancel",
    "CancelRun",
    "CloseClient",
    "Cut",
    "Drain",
    "Flush",
    "ForgetScripts",
    "Freeze",
    "HangUp",
    "Hold",
    "HoldNext",
    "Lag",
    "Let",
    "Limit",
    "Look",
    "LoseMarker",
    "Open",
    "Pause",
    "RateLimit",
    "Refuse",
    "Result",
    "Schedule",
    "Spoil",
    "Stall",
    "Start",
    "Stop",
    "Until",
    "Wake",
]
