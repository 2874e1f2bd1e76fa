"""Every option: its name, its unit, its variable, its range, and what it means.

The class Settings is the only table of options: the environment, the flags of the command line,
their help and the documentation come from it. It is no dataclass: Python takes 3 ms of every start
to make one of so many fields.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, dataclass_transform

from convolab_worker.settings.checking import check_values, read_values, refuse_unknown
from convolab_worker.settings.environment import VARIABLES_START
from convolab_worker.settings.kinds import (
    Choice,
    Duration,
    KeptJobs,
    Kind,
    Names,
    Rate,
    Text,
    Url,
    Whole,
    show,
)
from convolab_worker.settings.units import format_duration, parse_duration
from convolab_worker.settings.urls import REDIS_SCHEMES, mask_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convolab_worker.settings.redis_clients import GivenServer

__all__ = [
    "OPTIONS",
    "Option",
    "Settings",
    "format_duration",
    "mask_url",
    "parse_duration",
]

_T = TypeVar("_T")
_DAY = 24 * 3600.0
_PRINTABLE = Text(r"[!-~]+", "printable ASCII without spaces")
_SECRET = Text(_PRINTABLE.pattern, _PRINTABLE.expected, secret=True)
_SWITCH = Choice(("off", "on"))


class Option:
    """An option: its variable, what it may be, what it means, and its default."""

    __slots__ = ("default", "help", "kind", "variable")

    def __init__(self, default: Any, kind: Kind, help: str, variable: str | None) -> None:  # noqa: A002
        self.default, self.kind, self.help = default, kind, help
        self.variable = variable or ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.variable = self.variable or VARIABLES_START + name.upper()

    @property
    def default_text(self) -> str:
        """The default as text of a variable, or ``unset``."""
        return "unset" if self.default is None else self.kind.text(self.default)

    def read(self, text: str) -> Any:
        """Return the value that the text of a variable or a flag means.

        Raises ``ValueError``, which says what was expected, for text that can't be read and for
        values outside the range.
        """
        return self.check(self.kind.parse(text))

    def check(self, value: Any) -> Any:
        """Return the value in its own type. Raises ``ValueError``, which says what was expected."""
        return None if value is None and self.default is None else self.kind.check(value)

    def show(self, value: Any) -> str:
        """Return the value as text for a message or a table, with secrets masked."""
        return show(self.kind, value)


def _option(default: _T, kind: Kind, help: str, variable: str | None = None) -> _T:  # noqa: A002
    """Describe a field; its variable is CONVOLAB_ and the field's name, where none is given."""
    return cast("_T", Option(default, kind, help, variable))


@dataclass_transform(frozen_default=True, kw_only_default=True)
class _Frozen:
    """Holds the values of a subclass's options; they are checked once, and never changed.

    A type checker sees a frozen dataclass whose fields are the options and what stands below them.
    """

    def __init__(self, **given: Any) -> None:
        more = {name: given.pop(name, getattr(type(self), name)) for name in _BESIDE}
        if unknown := given.keys() - OPTIONS.keys():
            msg = f"{type(self).__name__}() got an unexpected keyword argument {min(unknown)!r}"
            raise TypeError(msg)
        values = {name: option.default for name, option in OPTIONS.items()}
        self.__dict__.update(values, **check_values(OPTIONS, given), **more)

    def _compared(self) -> tuple[Any, ...]:
        return tuple(value for name, value in self.__dict__.items() if name != "remarks")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Frozen):
            return NotImplemented
        return type(self) is type(other) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(self._compared())

    def __setattr__(self, name: str, value: object) -> NoReturn:
        self.__delattr__(name)

    def __delattr__(self, name: str) -> NoReturn:
        msg = f"{name!r} can't be changed: replace() returns settings with another value"
        raise AttributeError(msg)


class Settings(_Frozen):
    """Every option of workers and clients; durations are in seconds.

    Raises ConfigurationError, which lists everything that is wrong.
    """

    redis_url: str = _option(
        "redis://localhost:6379",
        Url(REDIS_SCHEMES),
        "address of the Redis or Valkey server",
        "REDIS_URL",
    )
    redis_password_file: str | None = _option(
        None,
        Text(r"[^\x00]+", "the path of a file"),
        "file with the password of the server, read at every connect, for one that rotates",
    )
    queues: tuple[str, ...] = _option(
        ("convolab",),
        Names(
            "one or more different queue names, separated by commas, without colons", any_text=True
        ),
        "BullMQ queue names, separated by commas; jobs are added to the first by default",
    )
    prefix: str = _option(
        "bull",
        Text(r"[^\x00-\x1f\x7f]+", "a key prefix without control characters"),
        "BullMQ's key prefix; a Redis cluster needs a hash tag such as {bull}",
    )
    concurrency: int = _option(8, Whole(1, 10_000), "how many jobs run at once, at most")
    park_limit: int = _option(
        100,
        Whole(0, 100_000),
        "how many jobs wait in memory, at most, while their handler is at its own limit",
    )
    idle_min: float = _option(
        5.0, Duration(0.01, _DAY), "first wait of the idle backoff, when there is no work"
    )
    idle_max: float = _option(
        1800.0, Duration(0.01, _DAY), "longest wait of the idle backoff, when there is no work"
    )
    lock_duration: float = _option(
        60.0, Duration(1.0, _DAY), "how long the lock of a job lasts without renewal"
    )
    max_stalled_count: int = _option(
        1, Whole(0, 1000), "how often a job may lose its worker and run again before it fails"
    )
    shutdown_grace: float = _option(
        8.0,
        Duration(0.0, 3600.0),
        "how long jobs may still run after SIGTERM before they go back to their queues",
    )
    keep_completed: str | None = _option(
        None,
        KeptJobs(),
        "how many completed jobs are kept, of jobs that say nothing: 1000, 1h, 1000/1d or none",
    )
    keep_failed: str | None = _option(
        None, KeptJobs(), "the same for failed jobs; BullMQ keeps them all, if unset"
    )
    progress_interval: float = _option(
        1.0,
        Duration(0.0, 3600.0),
        "least time between two progress updates of one job; the last update is always sent",
    )
    step_size_warning: int = _option(
        2**16,
        Whole(1),
        "how many bytes a step's result may have, as JSON, before the worker warns",
    )
    step_size_limit: int = _option(
        2**20, Whole(1), "how many bytes the results of a job's steps may have together"
    )
    command_timeout: float = _option(
        10.0, Duration(0.1, 600.0), "how long a Redis command may take, except a blocking read"
    )
    max_command_size: int = _option(
        2**29,
        Whole(2**16, 2**29),
        "how many bytes a job's data, result or failure may have, where the server takes less "
        "than Redis's 512 MiB",
    )
    command_budget: int | None = _option(
        None, Whole(1), "Redis commands a day; the worker compares its count with it and warns"
    )
    wake_url: str | None = _option(
        None, Url(("http", "https")), "address to which clients send wakes"
    )
    wake_token: str | None = _option(
        None,
        _SECRET,
        "bearer token that the wake server expects and that clients send",
    )
    wake_audience: str | None = _option(
        None,
        _PRINTABLE,
        "audience of the Google identity token that wakes carry; clients need the extra gcp",
    )
    wake_emails: tuple[str, ...] | None = _option(
        None,
        Names("one or more different e-mail addresses, separated by commas"),
        "whose identity tokens the wake server accepts, if CONVOLAB_WAKE_AUDIENCE is set",
    )
    wake_signing_key: str | None = _option(
        None,
        _SECRET,
        "QStash's current signing key: the wake server accepts wakes that it has signed for "
        "CONVOLAB_WAKE_URL",
    )
    wake_next_signing_key: str | None = _option(
        None,
        _SECRET,
        "QStash's next signing key, which signs after the keys were rolled",
    )
    wake_mode: str = _option(
        "auto",
        Choice(("auto", "background", "held")),
        "held works only while a request is open; auto is held where open requests "
        "keep an instance running (Cloud Run, Fly.io, Azure Container Apps), background elsewhere",
    )
    wake_hold: float = _option(
        170.0,
        Duration(1.0, 3600.0),
        "how long a held request stays open, at most, unless it says how long",
    )
    wake_linger: float = _option(
        10.0,
        Duration(0.0, 3600.0),
        "how long a held request waits for a job that is due soon",
    )
    wake_retry: str = _option(
        "off",
        _SWITCH,
        "on answers a held request whose time is over with 503 and Retry-After, so that a task "
        "queue or scheduler that repeats what failed comes back",
    )
    wake_rate: int = _option(
        100,
        Whole(1, 1_000_000),
        "how many requests a second the wake server accepts from one client",
    )
    console_actions: str = _option(
        "off",
        _SWITCH,
        "on lets whoever may open the console act on jobs and queues where it asks for no token",
    )
    console_payloads: str = _option(
        "shown",
        Choice(("shown", "hidden")),
        "hidden keeps data, results, progress, steps and logs of jobs out of the console",
    )
    console_redact: tuple[str, ...] | None = _option(
        None,
        Names("different names of fields, separated by commas"),
        "fields of jobs' data, results, progress and steps that the console does not show, at any "
        "depth, in any spelling: apiKey is api_key, too",
    )
    sleep_after: float | None = _option(
        None,
        Duration(0.01, _DAY),
        "idle time after which the worker closes its connections until a wake; 10s if held",
    )
    k_service: str | None = _option(
        None, _PRINTABLE, "name of the service, which Cloud Run sets", "K_SERVICE"
    )
    port: int = _option(
        8080, Whole(0, 65535), "port of the wake server; 0 chooses a free one", "PORT"
    )
    host: str | None = _option(
        None,
        Text(r"[^\s\x00]+", "a name or an address of this machine"),
        "where the wake server listens: a name or an address of this machine; if unset, everywhere "
        "or on loopback, by IPv4 and IPv6",
        "HOST",
    )
    app: str | None = _option(
        None,
        Text(r"[^\s:]+:[^\s:]+", "MODULE:REGISTRY, such as app.jobs:handlers"),
        "the application's handlers, as MODULE:REGISTRY",
    )
    worker_name: str | None = _option(
        None,
        _PRINTABLE,
        "name of the worker in logs and in Redis; host and process id if unset",
    )
    listed: str = _option(
        "on",
        _SWITCH,
        "on lists this worker in getWorkers() of Node: a command a queue at each connect, and a "
        "connection for each queue beyond two",
    )
    rate_limit: str | None = _option(
        None,
        Rate(),
        "how many jobs start on each queue in a time, such as 10/s or 100/5s: BullMQ's limiter",
    )
    metrics_points: int | None = _option(
        None,
        Whole(1, 1_000_000),
        "for how many minutes Node's getMetrics() has counts; nothing is recorded if unset",
    )
    otel: str = _option(
        "off",
        _SWITCH,
        "on makes OpenTelemetry spans and metrics of jobs; needs the extra convolab_worker[otel]",
    )
    log_level: str = _option(
        "info",
        Choice(("debug", "info", "warning", "error", "critical")),
        "lowest level of the lines that are logged",
        "LOG_LEVEL",
    )
    log_format: str = _option(
        "auto",
        Choice(("auto", "json", "google", "text")),
        "auto is readable text on a terminal, google (JSON with severity, message and trace) on "
        "Cloud Run, and JSON lines elsewhere",
        "LOG_FORMAT",
    )
    log_traceback: int = _option(
        8000,
        Whole(0, 1_000_000),
        "how many characters of a failed job's traceback its log line has; 0 leaves it out",
    )

    strict_variables: str = _option(
        "off",
        _SWITCH,
        "on makes an unknown CONVOLAB_ variable an error, which is a warning otherwise",
        "CONVOLAB_STRICT",
    )

    redis_given: GivenServer | None = None
    """The server of ``from_redis``, which then counts instead of ``redis_url``."""
    remarks: tuple[str, ...] = ()
    """What ``from_env`` passed over: unknown variables, and values of others that it can't read."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Return the settings of the environment; keyword arguments override its variables.

        ``environ`` is ``os.environ`` by default. A variable that is set but empty counts as unset.
        What other software may have written is no error, and told by ``remarks``: unknown
        ``CONVOLAB_`` variables, and what LOG_LEVEL, LOG_FORMAT and PORT mean elsewhere. Raises
        ConfigurationError for other values outside their range, for keyword arguments that do not
        exist, and with ``CONVOLAB_STRICT=on`` for unknown variables.
        """
        given = os.environ if environ is None else environ
        values, remarks = read_values(OPTIONS, OPTIONS, given, overrides)
        return cls(**values, remarks=remarks)

    @classmethod
    def for_client(cls, **overrides: Any) -> Settings:
        """Return the settings of ``os.environ`` that a client uses; the others are not read."""
        values, remarks = read_values(OPTIONS, _CLIENTS, os.environ, overrides)
        return cls(**values, remarks=remarks)

    @classmethod
    def from_redis(cls, client: Any, **overrides: Any) -> Settings:
        """Return the environment's settings for the server that a client of redis-py uses.

        ``client`` is a ``redis.asyncio`` (or ``redis``) client of one server, of Sentinels
        (``Sentinel.master_for``) or of a cluster. Its address, TLS, Sentinels and credentials are
        taken, its credential provider included, which is asked at every connect; its connections
        are not. ``REDIS_URL`` is not read. Keyword arguments override variables. Raises
        ConfigurationError.
        """
        from convolab_worker.settings.redis_clients import server_of

        environ = {name: text for name, text in os.environ.items() if name != "REDIS_URL"}
        values, remarks = read_values(OPTIONS, OPTIONS, environ, overrides)
        return cls(**values, redis_given=server_of(client), remarks=remarks)

    def replace(self, **overrides: Any) -> Settings:
        """Return these settings with some of them changed. Raises ConfigurationError.

        A ``redis_url`` takes the place of the server that ``from_redis`` has taken.
        """
        refuse_unknown(OPTIONS, overrides)
        given = None if "redis_url" in overrides else self.redis_given
        values = {name: getattr(self, name) for name in OPTIONS} | overrides
        return Settings(**values, redis_given=given, remarks=self.remarks)

    __replace__ = replace  # Python 3.13's copy.replace

    def __repr__(self) -> str:
        shown = (f"{name}={option.show(getattr(self, name))}" for name, option in OPTIONS.items())
        return f"Settings({', '.join(shown)})"


OPTIONS: Mapping[str, Option] = {
    name: option for name, option in vars(Settings).items() if isinstance(option, Option)
}
"""Every option by the name of its field, in the order of the fields."""

_CLIENTS = (
    "redis_url", "redis_password_file", "queues", "prefix", "command_timeout", "wake_url",
    "wake_token", "wake_audience", "k_service", "otel", "strict_variables",
)  # fmt: skip
# Settings have these attributes, too, which are no options.
_BESIDE = ("redis_given", "remarks")
