"""How many commands each script runs inside Redis, read off the scripts' texts.

A provider that bills by the command bills these too. What a script does depends on what it finds;
its answer, its arguments and the job tell most of it. Work that a later script does because of an
earlier one (it promotes a delayed job, it moves a parent back) is charged to the earlier one, where
that is known. ``tests/integration/bullmq/test_script_costs.py`` holds the sums against the server's
own statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.bullmq.protocol.records import ActiveJob

_FETCH_FOUND = 9
_FETCH_NOTHING = 6
_FETCH_LIMITED = 4
_FROM_PRIORITIZED = 2
# Of one delayed job that is due, by whichever script finds it, with the reads that told so.
_PROMOTION = 8

_FINISH = 14
_BULLMQS_ANSWER = 4  # values
_FIELDS = 8  # their place among the arguments
_WITH_FIELDS = 1  # the reason and the stack trace of a failure; a completed job's steps
_IS_DRAINED = 4  # whether anything is left in the queue; nothing is, as a rule
_REMOVED_AT_ONCE = -1
_TRIM_FINISHED = 4  # where a number of ended jobs, or their age, is kept: one goes for each
# Of a parent's last child, with the four reads that told so; for the others the script counts.
_CHILD_COMPLETED = 7
_CHILD_FAILED = 4
# The job that is deduplicated by its key, and whether data for a next one waits.
_DEDUPLICATED, _DEDUPLICATED_FOR_A_TIME = 4, 2

_DELAY = 10
_DELAY_MARKER = 2
_RETRY = 15
_PARENT_MOVES_BACK = 8

_METRICS = 2  # of each job that ends, where metrics are recorded
_METRICS_NEW_MINUTE = 4
_LIMITER = 1  # where the worker has a rate limit
_LIMITER_FOUND = 2  # and a job starts under it

RETURN_TO_QUEUE = 12
AWAIT_CHILDREN = 9 + _PARENT_MOVES_BACK
STALLED_PASS = 7
PROGRESS = 4
RECORD_STEP = 4
UPDATE_DATA = 2
RENEWAL = 3  # for each job, by the script that renews the locks of all

# BullMQ chooses the id of a job that is added without one; ours have an id, which costs one more.
ADD_NUMBERED = 8
ADD = ADD_NUMBERED + 1
ADD_NAMED = 1  # whether a job of an id that was chosen is there
FIND_JOB = 6  # all that such an add runs if it is
REMOVE_SCHEDULE = 6
_ADD_SCHEDULE = 14  # a new one; up to 10 more in the place of another
_ADD_CHILD = 2
# What operators do to a job or a queue.
RETRY_ENDED = 10
FORGET_STEPS = 3  # a look at the fields, and one more for each step; most jobs have one or two
WAIT_FOR_CHILDREN = 5
PROMOTE = 8
PAUSE = 3
RESUME = 6
_REMOVE = {"completed": 16, "delayed": 18, "failed": 19}
_REMOVE_OTHER = 20
_CLEAN, _CLEAN_EACH = 3, 3
# The places in which BullMQ looks for a job, in its order.
_LOOKED_UP = ("completed", "failed", "delayed", "prioritized", "active", "waiting")
_LOOKED_UP_ALL = 8


def failures_read(children: int) -> int:
    """What ``awaitChildren`` runs before BullMQ's script, for so many children."""
    return -(-children // 1000)


def state_of(state: str) -> int:
    """Returns the commands of the script that has found a job in this state."""
    return _LOOKED_UP.index(state) + 1 if state in _LOOKED_UP else _LOOKED_UP_ALL


def remove(state: str) -> int:
    """Returns the commands of the script that removes a job without children from this state."""
    return _REMOVE.get(state, _REMOVE_OTHER)


def clean(removed: int) -> int:
    """Returns the commands of the script that has cleaned so many jobs away."""
    return _CLEAN + _CLEAN_EACH * removed


def add(script: str, *, is_child: bool = False) -> int:
    """Commands inside a script that adds a job which is not there yet."""
    has_order_of_its_own = script != "addStandardJob"  # delayed, or prioritized
    return ADD + has_order_of_its_own + (_ADD_CHILD if is_child else 0)


def add_schedule(*, has_pattern: bool) -> int:
    """Commands inside the script that writes a schedule, and a first job that waits or is due."""
    return _ADD_SCHEDULE + has_pattern


def log(*, has_progress: bool, is_trimmed: bool) -> int:
    """Commands inside our script that adds rows to a job's log."""
    return (PROGRESS if has_progress else 1) + 1 + is_trimmed


def add_to_stall_count(added: int) -> int:
    """Commands inside our script that parks a job (``added`` below 0), or unparks it."""
    return 2 if added < 0 else 1


def counted(answer: Any) -> int | None:
    """What a script has counted itself, as those in ``lua/`` do that stand before BullMQ's."""
    return answer[4] if isinstance(answer, list) and len(answer) > _BULLMQS_ANSWER else None


def fetch(*, found: bool, job: ActiveJob | None = None, is_limited: bool = False) -> int:
    """Commands inside ``moveToActive``, or the same part of a script that ends an attempt.

    ``job`` is the job that was fetched, where it is at hand.
    """
    if not found:
        return _FETCH_LIMITED if is_limited else _FETCH_NOTHING
    if job is None:
        return _FETCH_FOUND
    return _fetched(job)


def _fetched(job: ActiveJob) -> int:
    commands, opts = _FETCH_FOUND, job.opts
    if opts.get("priority"):
        commands += _FROM_PRIORITIZED
    if job.starts == 1 and opts.get("delay"):
        commands += _PROMOTION
    return commands


def limiter(*, found: bool) -> int:
    return _LIMITER + (_LIMITER_FOUND if found else 0)


def metrics(*, is_new_minute: bool) -> int:
    return _METRICS + (_METRICS_NEW_MINUTE if is_new_minute else 0)


def transition(
    call: Call, answer: Any, *, job: ActiveJob | None = None, fetched: ActiveJob | None = None
) -> int:
    """Commands inside a script that ends an attempt, by what it answered.

    ``job`` is the job whose attempt ends, ``fetched`` the next one, where they are at hand.
    """
    if call.script in ("moveToFinished", "finishWithSteps"):
        return _finish(call, job) + _next(
            answer, fetched, was_asked=call.args[5] == "1", otherwise=_IS_DRAINED
        )
    if call.script == "moveToDelayed":
        return _delay(call) + _next(
            answer, fetched, was_asked=call.args[7] == "1", otherwise=_DELAY_MARKER
        )
    is_prioritized = job is not None and bool(job.opts.get("priority"))
    return _RETRY + is_prioritized


def _finish(call: Call, job: ActiveJob | None) -> int:
    fields = call.args[_FIELDS : _FIELDS + 1]
    total = _FINISH + _WITH_FIELDS * (call.script == "finishWithSteps" or any(fields))
    if job is None:
        return total
    has_failed = call.args[4] == "failed"
    if job.parent_key is not None:
        total += _CHILD_FAILED if has_failed else _CHILD_COMPLETED
    deduplication = job.opts.get("deduplication")
    if isinstance(deduplication, dict):
        total += _DEDUPLICATED_FOR_A_TIME if deduplication.get("ttl") else _DEDUPLICATED
    remove = (job.policy or job.opts).get("removeOnFail" if has_failed else "removeOnComplete")
    if remove is None or remove is False:
        return total
    return total + (_REMOVED_AT_ONCE if remove is True or remove == 0 else _TRIM_FINISHED)


def _delay(call: Call) -> int:
    counts, has_fields = call.args[5] == "0", bool(call.args[6])
    return _DELAY + (1 if counts else 0) + (_WITH_FIELDS if has_fields else 0) + _PROMOTION


def _next(answer: Any, fetched: ActiveJob | None, *, was_asked: bool, otherwise: int) -> int:
    """The end of a script: the next job if one was asked for, and what is done without one."""
    if not isinstance(answer, list):
        return otherwise + (_FETCH_NOTHING if was_asked else 0)
    if not isinstance(answer[0], list):
        return _FETCH_LIMITED if answer[2] else _FETCH_NOTHING
    return _FETCH_FOUND if fetched is None else _fetched(fetched)
