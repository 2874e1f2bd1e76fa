"""Every option: its name, its unit, its variable, its range, and what it means.

The class Settings is the only table of options: the environment, the flags of the command line,
their help and the documentation come from it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from convolab_worker.settings.checking import read_values, refuse_unknown
from convolab_worker.settings.kinds import Choice, Duration, KeptJobs, Names, Rate, Text, Url, Whole
from convolab_worker.settings.option import Frozen, Option, option, options_of
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

_DAY = 24 * 3600.0
_PRINTABLE = Text(r"[!-~]+", "printable ASCII without spaces")
_SECRET = Text(_PRINTABLE.pattern, _PRINTABLE.expected, secret=True)
_SWITCH = Choice(("off", "on"))


class Settings(Frozen):
    """Every option of workers and clients; durations are in seconds.

    Raises ConfigurationError, which lists everything that is wrong.
    """

    redis_url: str = option(
        "redis://localhost:6379",
        Url(REDIS_SCHEMES),
        "address of the Redis or Valkey server",
        "REDIS_URL",
    )
    redis_password_file: str | None = option(
        None,
        Text(r"[^\x00]+", "the path of a file"),
        "file with the password of the server, read at every connect, for one that rotates",
    )
    queues: tuple[str, ...] = option(
        ("convolab",),
        Names(
            "one or more different queue names, separated by commas, without colons", any_text=True
        ),
        "BullMQ queue names, separated by commas; jobs are added to the first by default",
    )
    prefix: str = option(
        "bull",
        Text(
            r"[^\x00-\x1f\x7f\ud800-\udfff]+",
            "a key prefix without control characters and lone surrogates",
        ),
        "BullMQ's key prefix; a Redis cluster needs a hash tag such as {bull}",
    )
    concurrency: int = option(8, Whole(1, 10_000), "how many jobs run at once, at most")
    park_limit: int = option(
        100,
        Whole(0, 100_000),
        "how many jobs wait in memory, at most, while their handler is at its own limit",
    )
    idle_min: float = option(
        5.0, Duration(0.01, _DAY), "first wait of the idle backoff, when there is no work"
    )
    idle_max: float = option(
        1800.0, Duration(0.01, _DAY), "longest wait of the idle backoff, when there is no work"
    )
    lock_duration: float = option(
        60.0, Duration(1.0, _DAY), "how long the lock of a job lasts without renewal"
    )
    max_stalled_count: int = option(
        1, Whole(0, 1000), "how often a job may lose its worker and run again before it fails"
    )
    shutdown_grace: float = option(
        8.0,
        Duration(0.0, 3600.0),
        "how long jobs may still run after SIGTERM before they go back to their queues",
    )
    keep_completed: str | None = option(
        None,
        KeptJobs(),
        "how many completed jobs are kept, unless the job or its handler says so: 1000, 1h, "
        "1000/1d or none",
    )
    keep_failed: str | None = option(
        None, KeptJobs(), "the same for failed jobs; BullMQ keeps them all, if unset"
    )
    progress_interval: float = option(
        1.0,
        Duration(0.0, 3600.0),
        "least time between two progress updates of one job; the last update is always sent",
    )
    step_size_warning: int = option(
        2**16,
        Whole(1),
        "how many bytes a step's result may have, as JSON, before the worker warns",
    )
    step_size_limit: int = option(
        2**20, Whole(1), "how many bytes the results of a job's steps may have together"
    )
    command_timeout: float = option(
        10.0, Duration(0.1, 600.0), "how long a Redis command may take, except a blocking read"
    )
    max_command_size: int = option(
        2**29,
        Whole(2**16, 2**29),
        "how many bytes a job's data, result or failure may have, where the server takes less "
        "than Redis's 512 MiB",
    )
    command_budget: int | None = option(
        None, Whole(1), "Redis commands a day; the worker compares its count with it and warns"
    )
    wake_url: str | None = option(
        None, Url(("http", "https")), "address to which clients send wakes"
    )
    wake_token: str | None = option(
        None,
        _SECRET,
        "bearer token that the wake server expects and that clients send",
    )
    wake_audience: str | None = option(
        None,
        _PRINTABLE,
        "audience of the Google identity token that wakes carry; clients need the extra gcp",
    )
    wake_emails: tuple[str, ...] | None = option(
        None,
        Names("one or more different e-mail addresses, separated by commas"),
        "whose identity tokens the wake server accepts, if CONVOLAB_WAKE_AUDIENCE is set",
    )
    wake_signing_key: str | None = option(
        None,
        _SECRET,
        "QStash's current signing key: the wake server accepts wakes that it has signed for "
        "CONVOLAB_WAKE_URL",
    )
    wake_next_signing_key: str | None = option(
        None,
        _SECRET,
        "QStash's next signing key, which signs after the keys were rolled",
    )
    wake_mode: str = option(
        "auto",
        Choice(("auto", "background", "held")),
        "held works only while a request is open; auto is held where open requests "
        "keep an instance running (Cloud Run, Fly.io, Azure Container Apps), background elsewhere",
    )
    wake_hold: float = option(
        170.0,
        Duration(1.0, 3600.0),
        "how long a held request stays open, at most, unless it says how long",
    )
    wake_linger: float = option(
        10.0,
        Duration(0.0, 3600.0),
        "how long a held request waits for a job that is due soon",
    )
    wake_retry: str = option(
        "off",
        _SWITCH,
        "on answers a held request whose time is over with 503 and Retry-After, so that a task "
        "queue or scheduler that repeats what failed comes back",
    )
    wake_rate: int = option(
        100,
        Whole(1, 1_000_000),
        "how many requests a second the wake server accepts from one client",
    )
    console_actions: str = option(
        "off",
        _SWITCH,
        "on lets whoever may open the console act on jobs and queues where it asks for no token",
    )
    console_payloads: str = option(
        "shown",
        Choice(("shown", "hidden")),
        "hidden keeps data, results, progress, steps and logs of jobs out of the console",
    )
    console_redact: tuple[str, ...] | None = option(
        None,
        Names("different names of fields, separated by commas"),
        "fields of jobs' data, results, progress and steps that the console does not show, at any "
        "depth, in any spelling: apiKey is api_key, too",
    )
    sleep_after: float | None = option(
        None,
        Duration(0.01, _DAY),
        "idle time after which the worker closes its connections until a wake; 10s if held",
    )
    k_service: str | None = option(
        None, _PRINTABLE, "name of the service, which Cloud Run sets", "K_SERVICE"
    )
    port: int = option(
        8080,
        Whole(0, 65535),
        "port of the wake server or of the console; 0 chooses a free one",
        "PORT",
    )
    host: str | None = option(
        None,
        Text(r"[^\s\x00]+", "a name or an address of this machine"),
        "where the wake server listens: a name or an address of this machine; if unset, everywhere "
        "or on loopback, by IPv4 and IPv6",
        "HOST",
    )
    app: str | None = option(
        None,
        Text(r"[^\s:]+:[^\s:]+", "MODULE:REGISTRY, such as app.jobs:handlers"),
        "the application's handlers, as MODULE:REGISTRY, such as jobs:handlers",
    )
    worker_name: str | None = option(
        None,
        _PRINTABLE,
        "name of the worker in logs and in Redis; host and process id if unset",
    )
    listed: str = option(
        "on",
        _SWITCH,
        "on lists this worker in getWorkers() of Node: a command a queue at each connect, and a "
        "connection for each queue beyond two",
    )
    rate_limit: str | None = option(
        None,
        Rate(),
        "how many jobs start on each queue in a time, such as 10/s or 100/5s: BullMQ's limiter",
    )
    metrics_points: int | None = option(
        None,
        Whole(1, 1_000_000),
        "for how many minutes Node's getMetrics() has counts; nothing is recorded if unset",
    )
    otel: str = option(
        "off",
        _SWITCH,
        "on makes OpenTelemetry spans and metrics of jobs; needs the extra convolab_worker[otel]",
    )
    log_level: str = option(
        "info",
        Choice(("debug", "info", "warning", "error", "critical")),
        "lowest level of the lines that are logged",
        "LOG_LEVEL",
    )
    log_format: str = option(
        "auto",
        Choice(("auto", "json", "google", "text")),
        "auto is readable text on a terminal, google (JSON with severity, message and trace) on "
        "Cloud Run, and JSON lines elsewhere",
        "LOG_FORMAT",
    )
    log_traceback: int = option(
        8000,
        Whole(0, 1_000_000),
        "how many characters of a failed job's traceback its log line has; 0 leaves it out",
    )

    strict_variables: str = option(
        "off",
        _SWITCH,
        "on makes an unknown CONVOLAB_ variable an error, which is a warning otherwise",
        "CONVOLAB_STRICT",
    )

    _beside = ("redis_given", "remarks")
    redis_given: GivenServer | None = None
    """The server of ``from_redis``, which then counts instead of ``redis_url``."""
    remarks: tuple[str, ...] = ()
    """What ``from_env`` ignored: unknown variables, and unreadable values of shared variables."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Return the settings of the environment; keyword arguments override its variables.

        ``environ`` is ``os.environ`` by default. A variable that is set but empty counts as unset.
        What other software may have written is not an error, and ``remarks`` tells it: unknown
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


OPTIONS = options_of(Settings)
"""Every option by the name of its field, in the order of the fields."""

_CLIENTS = (
    "redis_url", "redis_password_file", "queues", "prefix", "command_timeout", "wake_url",
    "wake_token", "wake_audience", "k_service", "otel", "strict_variables",
)  # fmt: skip
