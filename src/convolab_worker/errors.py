"""Every exception that leaves the library, under one root."""

from __future__ import annotations

_MOST_SECONDS = 1e10  # some 300 years


class ConvolabWorkerError(Exception):
    """The root of every exception that this library raises."""


class ConfigurationError(ConvolabWorkerError):
    """A setting, a flag or a registration is wrong; raised before any I/O."""


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
    """A handler's result can't be written as JSON; the message names the place.

    The job is not retried: its work was done, and doing it again gives the same.
    """


class UnrecoverableError(ConvolabWorkerError):
    """Raised by a handler: fail this job now, whatever attempts are left.

    Has the meaning, and the name, of BullMQ's UnrecoverableError.
    """


class RetryLater(ConvolabWorkerError):
    """Raised by a handler: run this job again after ``delay`` seconds.

    Uses up no attempt.
    """

    def __init__(self, delay: float, reason: str = "") -> None:
        """Ask for another run in ``delay`` seconds, for ``reason`` (logged only)."""
        if not 0 <= delay < _MOST_SECONDS:
            msg = f"RetryLater(delay={delay!r}): expected seconds, 0 or more (and a date)"
            raise ValueError(msg)
        super().__init__(reason or f"retry in {delay:g} s")
        self.delay = delay


class JobTimeout(ConvolabWorkerError):
    """A handler ran longer than its time-out; counts as a failed attempt."""


class LockLost(ConvolabWorkerError):
    """The job's lock is gone, so another worker may have the job: nothing is written.

    ``ran_out`` tells that nobody holds it: it was not renewed in time; ``held`` that somebody does.
    """

    def __init__(self, reason: str, *, ran_out: bool = False, held: bool = False) -> None:
        """Keep the reason."""
        super().__init__(reason)
        self.ran_out = ran_out
        self.held = held


class JobNotFound(ConvolabWorkerError):
    """No job of that id is in the queues that were looked at."""


class JobFailed(ConvolabWorkerError):
    """The job whose result was awaited failed for good; ``reason`` says why."""

    def __init__(self, job_id: str, reason: str) -> None:
        """Name the job and carry its failure reason as the worker wrote it."""
        super().__init__(f"job {job_id} failed: {reason}")
        self.job_id = job_id
        self.reason = reason


class JobNotRunning(ConvolabWorkerError):
    """A job was to be cancelled that no worker of this library runs; the message says more."""


class NotRunning(ConvolabWorkerError):
    """A worker was asked for something that only one that runs can do."""


class RedisUnavailable(ConvolabWorkerError):
    """Redis can't be reached or refuses to serve; the message names the fix where known."""


class RedisRefused(RedisUnavailable):
    """Redis answered a command with an error; the command did nothing."""


class ReplyLost(RedisUnavailable):
    """A command was sent and its reply never came: it may or may not have run.

    ``silent`` tells that the connection was not closed either: nothing was heard at all.
    """

    def __init__(self, reason: str, *, silent: bool = False) -> None:
        """Keep the reason."""
        super().__init__(reason)
        self.silent = silent
