"""Every exception that leaves the library, under one root."""

from __future__ import annotations

_MOST_SECONDS = 1e10  # some 300 years


class ConvolabWorkerError(Exception):
    """The root of every exception that this library raises."""


class ConfigurationError(ConvolabWorkerError):
    """A setting, a flag, a registration or a call is wrong; raised before Redis is asked."""


class DuplicateHandler(ConfigurationError):
    """Two handlers claim one job name on one queue; raised at registration."""


class HandlerNotFound(ConvolabWorkerError):
    """No handler is registered for a job's name on its queue; the job fails for good."""


class LifespanFailed(ConvolabWorkerError):
    """A registry's lifespan failed to start, before any job was touched, or ended by itself."""


class InvalidPayload(ConvolabWorkerError):
    """A job's data is not JSON, or not what its handler's annotation asks for.

    The message names the field and what was expected. The job is not retried.
    """


class InvalidResult(ConvolabWorkerError):
    """A result, or the data of a new job, can't be written as JSON, or read as what it has to be.

    The result is that of a handler, or of a step of it. The message names the place. The job is not
    retried: another run would return the same.
    """


class UnrecoverableError(ConvolabWorkerError):
    """Raised by a handler: fail this job now, whatever attempts are left.

    Has the meaning, and the name, of BullMQ's UnrecoverableError.
    """


def _check_seconds(what: str, delay: object) -> None:
    """Raise ValueError unless ``delay`` is a time from now that a date can be made of."""
    if not isinstance(delay, (int, float)) or not 0 <= delay < _MOST_SECONDS:
        msg = f"{what}(delay={delay!r}): expected a number of seconds from 0 to {_MOST_SECONDS:g}"
        raise ValueError(msg)


class RetryLater(ConvolabWorkerError):
    """Raised by a handler: run this job again after ``delay`` seconds.

    Uses up no attempt.
    """

    def __init__(self, delay: float, reason: str = "") -> None:
        """Ask for another run in ``delay`` seconds, for ``reason`` (logged only)."""
        _check_seconds("RetryLater", delay)
        super().__init__(reason or f"retry in {delay:g} s")
        self.delay = delay

    def __reduce__(self) -> tuple[type[RetryLater], tuple[float, str]]:
        return type(self), (self.delay, str(self))


class RateLimited(ConvolabWorkerError):
    """Raised by a handler: its worker starts no job of this queue for ``delay`` seconds.

    This job goes back to the head of the queue, and uses up no attempt. Has the meaning of BullMQ's
    ``queue.rateLimit`` and RateLimitError: other workers heed it if they have a rate limit of their
    own (``rate_limit`` in Settings, ``limiter`` in Node).
    """

    def __init__(self, delay: float, reason: str = "") -> None:
        """Limit the queue for ``delay`` seconds, for ``reason`` (logged only)."""
        _check_seconds("RateLimited", delay)
        super().__init__(reason or f"the queue is limited for {delay:g} s")
        self.delay = delay

    def __reduce__(self) -> tuple[type[RateLimited], tuple[float, str]]:
        return type(self), (self.delay, str(self))


class JobTimeout(ConvolabWorkerError):
    """A handler, or a step of it, ran longer than its time-out; counts as a failed attempt."""


class ProcessDied(ConvolabWorkerError):
    """The process of a ``process=True`` handler ended under its job; counts as a failed attempt.

    The message says how: a signal, as from the kernel when memory runs out, or an exit code.
    """


class RemoteError(ConvolabWorkerError):
    """Stands for what a ``process=True`` handler raised, where that can't be pickled."""


class LockLost(ConvolabWorkerError):
    """The job's lock is gone, so another worker may have the job: nothing is written.

    ``ran_out`` says that nobody holds the lock, since it was not renewed in time; ``held`` says
    that somebody else holds it.
    """

    def __init__(self, reason: str, *, ran_out: bool = False, held: bool = False) -> None:
        super().__init__(reason)
        self.ran_out = ran_out
        self.held = held


class JobNotFound(ConvolabWorkerError):
    """No job of that id is in the queues that were looked at."""


class JobFailed(ConvolabWorkerError):
    """The job whose result was awaited failed for good; ``reason`` says why."""

    def __init__(self, job_id: str, reason: str) -> None:
        super().__init__(f"job {job_id} failed: {reason}")
        self.job_id = job_id
        self.reason = reason

    def __reduce__(self) -> tuple[type[JobFailed], tuple[str, str]]:
        return type(self), (self.job_id, self.reason)


class JobNotRunning(ConvolabWorkerError):
    """The job to be cancelled has ended, or no worker of this library runs it."""


class WrongState(ConvolabWorkerError):
    """A job's state does not allow the action; the message names the job and the state.

    Examples are a retry of a job that has not ended, and the removal of one that a worker has.
    """


class NotRunning(ConvolabWorkerError):
    """A worker was asked for what it can only do while it runs."""


class RedisUnavailable(ConvolabWorkerError):
    """Redis can't be reached, or refuses a command; the message says what to do where known."""


class RedisRefused(RedisUnavailable):
    """Redis answered a command with an error.

    A plain command did nothing. A script may have done part of its work before the error.
    """


class ReplyLost(RedisUnavailable):
    """A command was sent and its reply never came: it may or may not have run.

    ``silent`` says that the connection was not closed, and that nothing was heard on it.
    """

    def __init__(self, reason: str, *, silent: bool = False) -> None:
        super().__init__(reason)
        self.silent = silent
