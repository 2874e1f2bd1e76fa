"""Steps of a job: calls whose results are kept with it, so that no later run makes them again.

    new      -- begins -->             running
    running  -- returns -->            recorded  (this run and all later ones have the result)
    running  -- raises, cancelled -->  new       (it may begin again, in this run or a later one)
    recorded -- begins -->             recorded  (nothing is called)

A step is known by its name. Each name begins once in a run, so that no result is taken for another.
"""

from __future__ import annotations

import contextvars
import functools
import hashlib
import inspect
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from convolab_worker._chance import chance
from convolab_worker._logs import Log
from convolab_worker.errors import (
    ConfigurationError,
    InvalidPayload,
    InvalidResult,
    LockLost,
    RateLimited,
    RetryLater,
    UnrecoverableError,
)
from convolab_worker.handlers.groups import members
from convolab_worker.handlers.job.job import Job
from convolab_worker.handlers.job.steps.call import check_name, step_call
from convolab_worker.handlers.job.steps.callers import LoopCaller, ThreadCaller
from convolab_worker.handlers.job.worker_loop import driven, running_loop
from convolab_worker.handlers.retry import retry_delay
from convolab_worker.payloads.annotation import annotation_name, result_annotation
from convolab_worker.payloads.decode import decoder
from convolab_worker.payloads.encode import encode_data

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.handlers.job.steps.call import StepCall
    from convolab_worker.handlers.job.steps.callers import Caller
    from convolab_worker.handlers.job.worker_loop import WorkerLoop

_KEY_DIGITS = 32
# These are not retried: another call would end the same way, or is to be made later.
_FINAL = (
    ConfigurationError, InvalidPayload, InvalidResult, LockLost, RateLimited, RetryLater,
    UnrecoverableError,
)  # fmt: skip
_log = Log()
_inside: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "convolab_worker_step", default=None
)


class StepRecorder(Protocol):
    """Keeps the results of steps; a job's reporter is one."""

    @property
    def is_closed(self) -> bool:
        """Whether the run is over, so that nothing is recorded any more."""

    def record_step(self, name: str, result: str) -> Coroutine[Any, Any, bytes]:
        """Keep a step's result, JSON text; return the kept one: an earlier one stays.

        Raises LockLost, and InvalidResult where the job would keep too much.
        """


class Steps:
    """The steps of one job, in one run of its handler."""

    def __init__(self, job: ActiveJob, recorder: StepRecorder, loop: WorkerLoop) -> None:
        self._job = job
        self._recorder = recorder
        self._loop = loop
        self._begun: set[str] = set()

    def key(self, name: str) -> str:
        """Return a text that this step has in every run of this job, and no other step has."""
        check_name(name)
        job = self._job
        origin = job.moved_from or f"{job.queue}:{job.id}"
        told = f"{origin}:{job.timestamp}:{name}".encode("utf-8", "surrogateescape")
        return hashlib.sha256(told).hexdigest()[:_KEY_DIGITS]

    def begin(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Return the step's result: itself in a thread without an event loop, else to be awaited.

        See ``Job.step``.
        """
        call = step_call(name, function, *args, **kwargs)
        if running_loop() is None:
            return driven(self._run(call, ThreadCaller(self._loop)))
        return self._run(call, LoopCaller(self._loop))

    async def _run(self, call: StepCall, caller: Caller) -> Any:
        """Return the step's recorded result, or that of its function once it is recorded."""
        self._claim(call.name)
        try:
            read = _Reader.of(call)
            kept = self._job.steps.get(call.name)
            if kept is None:
                written = _written(call.name, await self._result(call, caller))
                kept = await caller.wait_for(self._recorder.record_step(call.name, written))
                self._job.steps[call.name] = kept
        except BaseException:
            self._begun.discard(call.name)
            raise
        return read(kept)

    def _claim(self, name: str) -> None:
        outer = _inside.get()
        if outer is not None:
            msg = (
                f"step {name!r} inside the step {outer!r}: a step has no steps of its own; "
                "call the function itself, or begin the step after the other one"
            )
            raise ConfigurationError(msg)
        if name in self._begun:
            msg = (
                f"step {name!r} twice in one run: a step is known by its name; "
                f"number those of a loop, as in f'{name}-{{number}}'"
            )
            raise ConfigurationError(msg)
        if self._recorder.is_closed:
            msg = f"step {name!r}: this run of the job is over, and would not record it"
            raise LockLost(msg)
        self._begun.add(name)

    async def _result(self, call: StepCall, caller: Caller) -> Any:
        """Call the function, again after failures if the step says so."""
        made = 0
        while True:
            token = _inside.set(call.name)
            try:
                return await caller.call(call)
            except Exception as error:
                if any(isinstance(each, _FINAL) for each in members(error)):
                    raise
                delay = retry_delay(call.policy, made, random=chance())
                if delay is None:
                    raise
                _log.info(
                    "job.step_retried", step=call.name, error=repr(error), retry_in=round(delay, 3)
                )
            finally:
                _inside.reset(token)
            made += 1
            await caller.pause(delay)


def _written(name: str, result: Any) -> str:
    try:
        return encode_data(result, what=f"step {name!r}")
    except InvalidResult as error:
        msg = f"{error}; a step returns JSON: store what is not, and return its address"
        raise InvalidResult(msg) from error


class _Reader(Struct, frozen=True):
    """Reads a kept result as the type that the step's function says it returns."""

    name: str
    annotation: object
    decode: Callable[[bytes], Any]

    @classmethod
    def of(cls, call: StepCall) -> _Reader:
        """Raises ConfigurationError for a type that no result can have."""
        inner: Any = call.function
        while isinstance(inner, functools.partial):
            inner = inner.func
        annotation = inner if inspect.isclass(inner) else result_annotation(inner, Job)
        if annotation in (bytes, bytearray, memoryview):
            msg = (
                f"step {call.name!r}: its function returns {annotation_name(annotation)}, which "
                "JSON can't hold: store it, and return its address"
            )
            raise ConfigurationError(msg)
        return cls(call.name, annotation, decoder(annotation))

    def __call__(self, kept: bytes) -> Any:
        try:
            return self.decode(kept)
        except InvalidPayload as error:
            what = str(error).removeprefix("data")
            msg = (
                f"step {self.name!r}: its recorded result is not of type "
                f"{annotation_name(self.annotation)}: result{what}"
            )
            raise InvalidResult(msg) from error
