"""How many commands each of BullMQ's scripts runs inside Redis: read off the scripts.

A provider that bills by the command bills these too. They differ by a few with what a script
finds; ``tests/integration/test_meter.py`` holds the sums against the server's own statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convolab_worker.protocol import Call

_TAKE_FOUND = 9
_TAKE_NOTHING = 6
_FINISH = 14
_FINISH_LOOKS_ROUND = 3
_DRAINED_EVENT = 1
_RETRY = 11
_DELAY = 14
GIVE_BACK = 9
AWAIT_CHILDREN = 8
STALLED_PASS = 7
PROGRESS = 4
ADD = 8
RENEWAL = 3  # for each job, by the script that renews the locks of all


def take(*, found: bool) -> int:
    """Commands inside ``moveToActive``."""
    return _TAKE_FOUND if found else _TAKE_NOTHING


def transition(call: Call, answer: Any) -> int:
    """Commands inside a script that ends an attempt, by what it answered."""
    found = isinstance(answer, list) and isinstance(answer[0], list)
    if call.script == "moveToFinished":
        fetched = call.args[5] == "1"
        if found:
            return _FINISH + _TAKE_FOUND
        looked = _FINISH + _FINISH_LOOKS_ROUND + _DRAINED_EVENT
        return looked + (_TAKE_NOTHING if fetched else 0)
    if call.script == "moveToDelayed":
        return _DELAY + (take(found=found) if call.args[7] == "1" else 0)
    return _RETRY
