"""How many commands a script runs inside Redis that runs the same ones each time.

A provider that bills by the command bills these too. Other scripts count themselves, in
``lua/countCommands``; that takes the server longer, so those that run often and always do the same
do not. ``tests/integration/bullmq/test_script_costs.py`` compares the sums with the server's own
statistics.
"""

PROGRESS = 4
RECORD_STEP = 4
UPDATE_DATA = 2
RENEWAL = 3  # for each job, by the script that renews the locks of all

# BullMQ chooses the id of a job that is added without one; ours have an id, which costs one more.
ADD_NUMBERED = 8
FIND_JOB = 6  # all that such an add runs if it is
_ADD = ADD_NUMBERED + 1
_ADD_NAMED = 1  # whether a job of an id that was chosen is there
_ADD_CHILD = 2


def add(script: str, *, is_child: bool, is_named: bool) -> int:
    """Commands inside a script that adds a job which is not there yet."""
    has_order_of_its_own = script != "addStandardJob"  # delayed, or prioritized
    return _ADD + has_order_of_its_own + _ADD_CHILD * is_child + _ADD_NAMED * is_named


def log(*, has_progress: bool, is_trimmed: bool) -> int:
    """Commands inside our script that adds rows to a job's log."""
    return (PROGRESS if has_progress else 1) + 1 + is_trimmed


def add_to_stall_count(added: int) -> int:
    """Commands inside our script that parks a job (``added`` below 0), or unparks it."""
    return 2 if added < 0 else 1
