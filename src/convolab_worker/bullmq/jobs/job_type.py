"""JobType: a job's name, payload, result and options, declared once for both sides.

``job_request`` takes a declaration, a registered handler or a plain name. It is the one place where
a job to be added gets its name, queue and options, and where its data is checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, Unpack, overload

from convolab_worker.bullmq.jobs.job_id import JobId
from convolab_worker.bullmq.protocol.keywords import check_keyword, job_options
from convolab_worker.errors import ConfigurationError, InvalidPayload
from convolab_worker.payloads.decode import decoder, result_decoder
from convolab_worker.payloads.encode import encode_data

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convolab_worker.bullmq.protocol.keyword_types import JobPolicy

P = TypeVar("P")
R = TypeVar("R")

_ATTRIBUTE = "__convolab_job_types__"
"""The attribute of a registered function that has its job types, one for each registration."""


class JobType(Generic[P, R]):
    """A job's name, payload and result, and how it is added, for API and worker alike.

    Declare it in a module that both import: ``GENERATE_AUDIO = JobType("generate-audio",
    AudioRequest, AudioResult, queue="audio", attempts=5)``. Its handler is registered by
    ``@handlers.audio(GENERATE_AUDIO)``, and ``client.enqueue(GENERATE_AUDIO, AudioRequest(...))``
    adds a job. ``payload`` and ``result`` are types that msgspec or pydantic can check; by default
    they are not checked. ``queue`` is the client's first by default, and any queue of the worker.
    ``options`` are what ``enqueue`` takes: ``attempts``, ``backoff`` and so on. Raises
    ConfigurationError for what can't be.
    """

    __slots__ = ("_decode_result", "_result", "decode", "name", "options", "payload", "queue")

    @overload
    def __init__(
        self,
        name: str,
        payload: type[P],
        result: type[R],
        *,
        queue: str | None = None,
        **options: Unpack[JobPolicy],
    ) -> None: ...

    @overload
    def __init__(
        self: JobType[P, None],
        name: str,
        payload: type[P],
        result: None,
        *,
        queue: str | None = None,
        **options: Unpack[JobPolicy],
    ) -> None: ...

    @overload
    def __init__(
        self: JobType[P, Any],
        name: str,
        payload: type[P],
        *,
        queue: str | None = None,
        **options: Unpack[JobPolicy],
    ) -> None: ...

    @overload
    def __init__(
        self: JobType[Any, Any],
        name: str,
        payload: Any = Any,
        result: Any = Any,
        *,
        queue: str | None = None,
        **options: Unpack[JobPolicy],
    ) -> None: ...

    def __init__(
        self,
        name: str,
        payload: Any = Any,
        result: Any = Any,
        *,
        queue: str | None = None,
        **options: Unpack[JobPolicy],
    ) -> None:
        check_keyword("JobType", "name", name)
        check_keyword("JobType", "queue", queue)
        job_options(f"JobType {name!r}", options)
        self.name = name
        self.queue = queue
        self.payload: Any = payload
        self.options: Mapping[str, Any] = {
            what: value for what, value in options.items() if value is not None
        }
        self._result: Any = result
        self.decode: Callable[[bytes], P] = decoder(payload)
        """Returns the payload that is in the JSON of a job's data. Raises InvalidPayload."""
        self._decode_result: Callable[[bytes], Any] | None = None

    @property
    def result(self) -> Any:
        """The type of the result; Any where nothing is known of it.

        Raises ConfigurationError for a handler whose return annotation can't be resolved.
        """
        if isinstance(self._result, Unresolved):
            self._result = self._result.resolve()
        return self._result

    def encode(self, data: P) -> str:
        """Return a payload as JSON text that ``decode`` takes.

        Raises InvalidPayload for data that the handler would refuse, and InvalidResult for data
        that is not JSON.
        """
        text = encode_data(data)
        try:
            self.decode(text.encode())
        except InvalidPayload as error:
            msg = f"{self.name}: {error}"
            raise InvalidPayload(msg) from error
        return text

    def decode_result(self, raw: bytes) -> R:
        """Return the result that is in a job's JSON. Raises InvalidResult if it does not fit."""
        if self._decode_result is None:
            self._decode_result = result_decoder(self.result)
        result: R = self._decode_result(raw)
        return result

    def job_id(self, text: str) -> JobId[R]:
        """Return the id of a job of this type, of its text: one that came back in a request, say.

        ``await client.result(JOB_TYPE.job_id(text))`` then has the type of the result.
        """
        return JobId(text, queue=self.queue, job_type=self)

    def __repr__(self) -> str:
        where = "" if self.queue is None else f", queue={self.queue!r}"
        return f"JobType({self.name!r}{where})"


class Unresolved:
    """A return annotation that could not be resolved yet; ``resolve`` tries again."""

    __slots__ = ("resolve",)

    def __init__(self, resolve: Callable[[], Any]) -> None:
        self.resolve = resolve


class JobRequest(NamedTuple):
    """A job as a producer wants it: ``data`` is JSON text, ``options`` are keywords of enqueue."""

    name: str
    queue: str | None
    data: str
    options: Mapping[str, Any]
    job_type: JobType[Any, Any] | None


def job_request(target: object, data: Any, options: Mapping[str, Any]) -> JobRequest:
    """Return the job that a producer asks for by name, by JobType or by handler.

    ``options`` are the producer's own, its ``queue`` among them; they come before those of the
    declaration. Raises ConfigurationError for a target that is not one of these, InvalidPayload for
    data that the handler would refuse, and InvalidResult for data that is not JSON.
    """
    own = dict(options)
    queue = own.pop("queue", None)
    if isinstance(target, str):
        return JobRequest(target, queue, encode_data({} if data is None else data), own, None)
    job_type = job_type_of(target)
    for what, value in job_type.options.items():
        if own.get(what) is None:
            own[what] = value
    queue = job_type.queue if queue is None else queue
    return JobRequest(job_type.name, queue, job_type.encode(data), own, job_type)


def job_type_of(target: object) -> JobType[Any, Any]:
    """Return a JobType itself, or that of a registered handler. Raises ConfigurationError."""
    if isinstance(target, JobType):
        return target
    known = job_types_of(target)
    if len(known) == 1:
        return known[0]
    what = getattr(target, "__qualname__", repr(target))
    if known:
        names = ", ".join(repr(job_type.name) for job_type in known)
        msg = f"{what} is registered more than once ({names}): give a JobType, or a name"
    else:
        msg = f"{what} is not a registered handler: expected one, a JobType, or a job's name"
    raise ConfigurationError(msg)


def job_types_of(function: object) -> Sequence[JobType[Any, Any]]:
    """Return those that a function was registered with."""
    known: Sequence[JobType[Any, Any]] = getattr(function, _ATTRIBUTE, ())
    return known


def remember(function: Callable[..., Any], job_type: JobType[Any, Any]) -> None:
    """Let ``job_type_of`` find the job type of a function that was just registered.

    A method can't be given an attribute, and so can't be enqueued by itself.
    """
    known = job_types_of(function)
    others = [
        other for other in known if (other.name, other.queue) != (job_type.name, job_type.queue)
    ]
    try:
        setattr(function, _ATTRIBUTE, (*others, job_type))
    except AttributeError:
        return
