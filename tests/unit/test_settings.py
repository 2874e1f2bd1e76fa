"""Settings: what is accepted, what is refused, and what a refusal says and hides."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from hypothesis import given, strategies as st

from convolab_worker import JobClient
from convolab_worker.errors import ConfigurationError
from convolab_worker.settings import OPTIONS, Settings, format_duration, mask_url, parse_duration
from convolab_worker.settings.judged_urls import redis_url
from convolab_worker.settings.urls import plain_redis_url

DOCUMENTED = Path(__file__).parents[2] / "docs" / "running.md"


def refusal(environ: dict[str, str] | None = None, **overrides: object) -> str:
    """Return the message with which these settings are refused."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env(environ or {}, **overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90", 90.0),
        ("90s", 90.0),
        (" 5m ", 300.0),
        ("1h", 3600.0),
        ("1.5s", 1.5),
        (".5", 0.5),
        ("250ms", 0.25),
        ("0", 0.0),
        ("2 m", 120.0),
        (30, 30.0),
        (0.25, 0.25),
    ],
)
def test_durations_are_read_as_seconds(written: str | float, seconds: float) -> None:
    """Text with or without a unit, and plain numbers, are durations."""
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    ["", "s", "5x", "-1", "1e3", "inf", "nan", "1h30m", "5M", "٣", -1, True, float("nan"), 10**400],
)
def test_what_is_no_duration_is_refused(written: str | float) -> None:
    """Anything else is refused, with examples of what is read."""
    with pytest.raises(ValueError, match="expected a duration such as 90, 90s, 5m, 1h or 250ms"):
        parse_duration(written)


@given(st.integers(min_value=0, max_value=10**7))
def test_a_duration_survives_being_written(milliseconds: int) -> None:
    """What format_duration writes, parse_duration reads back."""
    seconds = milliseconds / 1000

    written = format_duration(seconds)

    assert parse_duration(written) == pytest.approx(seconds, rel=1e-5)


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    """Without any variable the settings are those of the constructor."""
    settings = Settings.from_env({})

    assert settings == Settings()
    assert settings.redis_url == "redis://localhost:6379"
    assert settings.queues == ("convolab",)
    assert (settings.idle_min, settings.idle_max) == (5.0, 1800.0)


def test_every_variable_reaches_its_field() -> None:
    """Each variable is read into its field, in the field's type and unit."""
    environ = {
        "REDIS_URL": "rediss://user:secret@example.com:6380/2",
        "CONVOLAB_REDIS_PASSWORD_FILE": "/run/secrets/redis",
        "CONVOLAB_QUEUES": "audio-generation, image-generation",
        "CONVOLAB_PREFIX": "{bull}",
        "CONVOLAB_CONCURRENCY": "4",
        "CONVOLAB_PARK_LIMIT": "0",
        "CONVOLAB_IDLE_MIN": "250ms",
        "CONVOLAB_IDLE_MAX": "1h",
        "CONVOLAB_LOCK_DURATION": "90",
        "CONVOLAB_MAX_STALLED_COUNT": "3",
        "CONVOLAB_SHUTDOWN_GRACE": "0",
        "CONVOLAB_KEEP_COMPLETED": "1000/1d",
        "CONVOLAB_KEEP_FAILED": "none",
        "CONVOLAB_PROGRESS_INTERVAL": "1.5s",
        "CONVOLAB_STEP_SIZE_WARNING": "1000",
        "CONVOLAB_STEP_SIZE_LIMIT": "2000",
        "CONVOLAB_COMMAND_TIMEOUT": "2s",
        "CONVOLAB_MAX_COMMAND_SIZE": "1048576",
        "CONVOLAB_COMMAND_BUDGET": "16000",
        "CONVOLAB_WAKE_URL": "https://worker.example.com/wake",
        "CONVOLAB_WAKE_TOKEN": "t0ken",
        "CONVOLAB_WAKE_AUDIENCE": "https://worker.example.com",
        "CONVOLAB_WAKE_EMAILS": "scheduler@example.com,api@example.com",
        "CONVOLAB_WAKE_SIGNING_KEY": "sig_1",
        "CONVOLAB_WAKE_NEXT_SIGNING_KEY": "sig_2",
        "CONVOLAB_WAKE_MODE": "held",
        "CONVOLAB_WAKE_HOLD": "5m",
        "CONVOLAB_WAKE_LINGER": "0",
        "CONVOLAB_WAKE_RATE": "20",
        "CONVOLAB_CONSOLE_ACTIONS": "on",
        "CONVOLAB_CONSOLE_PAYLOADS": "hidden",
        "CONVOLAB_CONSOLE_REDACT": "password,apiKey",
        "CONVOLAB_WAKE_RETRY": "on",
        "CONVOLAB_SLEEP_AFTER": "1m",
        "K_SERVICE": "worker",
        "PORT": "0",
        "HOST": "::1",
        "CONVOLAB_APP": "app.jobs:handlers",
        "CONVOLAB_WORKER_NAME": "worker-1",
        "CONVOLAB_LISTED": "off",
        "CONVOLAB_RATE_LIMIT": "100 / 5s",
        "CONVOLAB_METRICS_POINTS": "1440",
        "CONVOLAB_OTEL": "On",
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": "Json",
        "CONVOLAB_LOG_TRACEBACK": "500",
        "CONVOLAB_STRICT": "on",
    }
    expected = Settings(
        redis_url="rediss://user:secret@example.com:6380/2",
        redis_password_file="/run/secrets/redis",
        queues=("audio-generation", "image-generation"),
        prefix="{bull}",
        concurrency=4,
        park_limit=0,
        idle_min=0.25,
        idle_max=3600.0,
        lock_duration=90.0,
        max_stalled_count=3,
        shutdown_grace=0.0,
        keep_completed="1000/1d",
        keep_failed="none",
        progress_interval=1.5,
        step_size_warning=1000,
        step_size_limit=2000,
        command_timeout=2.0,
        max_command_size=1_048_576,
        command_budget=16000,
        wake_url="https://worker.example.com/wake",
        wake_token="t0ken",
        wake_audience="https://worker.example.com",
        wake_emails=("scheduler@example.com", "api@example.com"),
        wake_signing_key="sig_1",
        wake_next_signing_key="sig_2",
        wake_mode="held",
        wake_hold=300.0,
        wake_linger=0.0,
        wake_rate=20,
        console_actions="on",
        console_payloads="hidden",
        console_redact=("password", "apiKey"),
        wake_retry="on",
        sleep_after=60.0,
        k_service="worker",
        port=0,
        host="::1",
        app="app.jobs:handlers",
        worker_name="worker-1",
        listed="off",
        rate_limit="100/5s",
        metrics_points=1440,
        otel="on",
        log_level="debug",
        log_format="json",
        log_traceback=500,
        strict_variables="on",
    )

    settings = Settings.from_env(environ)

    assert settings == expected
    assert environ.keys() == {option.variable for option in OPTIONS.values()}


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """from_env without a mapping reads the variables of the process."""
    monkeypatch.setenv("CONVOLAB_CONCURRENCY", "3")

    settings = Settings.from_env()

    assert settings.concurrency == 3


def test_a_variable_that_is_set_but_empty_counts_as_unset() -> None:
    """An empty variable, as deployment tools leave them, gives the default."""
    settings = Settings.from_env({"CONVOLAB_CONCURRENCY": "", "CONVOLAB_COMMAND_BUDGET": " "})

    assert settings == Settings()


def test_white_space_around_a_value_is_not_part_of_it() -> None:
    """The line break that a secret's file ends in does not become part of the address."""
    settings = Settings.from_env({"REDIS_URL": "redis://example.com:6379\n"})

    assert settings.redis_url == "redis://example.com:6379"


def test_an_override_goes_before_its_variable_even_a_wrong_one() -> None:
    """A keyword argument wins, and the variable that it replaces is not even read."""
    settings = Settings.from_env({"CONVOLAB_CONCURRENCY": "many"}, concurrency=2)

    assert settings.concurrency == 2


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("CONVOLAB_CONCURRENCY", "0", "a whole number from 1 to 10000"),
        ("CONVOLAB_CONCURRENCY", "8.5", "a whole number from 1 to 10000"),
        ("CONVOLAB_CONCURRENCY", "1e1", "a whole number from 1 to 10000"),
        ("CONVOLAB_IDLE_MIN", "0", "a duration from 10ms to 24h"),
        ("CONVOLAB_IDLE_MAX", "2 days", "a duration from 10ms to 24h, such as 90, 90s, 5m"),
        ("CONVOLAB_LOCK_DURATION", "500ms", "a duration from 1s to 24h"),
        ("CONVOLAB_SHUTDOWN_GRACE", "-1", "a duration from 0s to 1h"),
        ("CONVOLAB_COMMAND_BUDGET", "0", "a whole number, 1 or more"),
        ("CONVOLAB_WAKE_URL", "worker.example.com", "an address that starts with http:// or"),
        ("CONVOLAB_WAKE_URL", "https:///wake", "a host after the scheme"),
        ("CONVOLAB_APP", "app.jobs", "MODULE:REGISTRY, such as app.jobs:handlers"),
        ("CONVOLAB_PREFIX", "two\tlines", "a key prefix without control characters"),
        ("CONVOLAB_WORKER_NAME", "arbeiter-ä", "printable ASCII without spaces"),
        ("REDIS_URL", "localhost:6379", "redis://, rediss://, unix://, redis+sentinel://"),
        ("REDIS_URL", "https://example.com", "redis://, rediss://, unix://, redis+sentinel://"),
        ("REDIS_URL", "unix://redis.sock", "the absolute path of a socket"),
        ("REDIS_URL", "redis://example.com:65536", "HOST[:PORT]"),
        ("REDIS_URL", "redis://example.com/cache", "a database number after the host"),
        ("REDIS_URL", "redis://[::1", "HOST[:PORT]"),
        ("REDIS_URL", "redis://exam ple.com", "an address without white space"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_what_was_expected(
    variable: str, value: str, expected: str
) -> None:
    """A refusal names the variable, the value as it was written, and what it has to be."""
    message = refusal({variable: value})

    assert message.startswith(f"{variable}={value!r}: expected ")
    assert expected in message


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("concurrency", 0, "a whole number from 1 to 10000"),
        ("concurrency", True, "a whole number from 1 to 10000"),
        ("concurrency", 2.0, "a whole number from 1 to 10000"),
        ("concurrency", None, "a whole number from 1 to 10000"),
        ("idle_max", float("inf"), "a duration from 10ms to 24h"),
        ("idle_max", float("nan"), "a duration from 10ms to 24h"),
        ("idle_max", "5m", "a duration from 10ms to 24h, as a number of seconds"),
        ("queues", "convolab", "one or more different queue names"),
        ("queues", (), "one or more different queue names"),
        ("queues", ("a", "a"), "'a' is there twice"),
        ("queues", ("a", ""), "a name is empty"),
        ("queues", ("a:b",), "'a:b' has a colon, which BullMQ forbids"),
        ("queues", ("a\nb",), "'a\\nb' has a control character"),
        ("wake_emails", ("a b",), "'a b' has white space, a comma or a control character"),
        ("queues", ("a", 5), "5 is not text"),
        ("prefix", "", "a key prefix without control characters"),
        ("log_level", 10, "one of debug, info, warning, error, critical"),
    ],
)
def test_a_wrong_argument_is_named_with_its_field(field: str, value: object, expected: str) -> None:
    """The constructor names the field, the value and what it has to be."""
    message = refusal({}, **{field: value})

    assert message.startswith(f"{field}={value!r}: expected ")
    assert expected in message
    with pytest.raises(ConfigurationError, match=f"^{field}="):
        Settings(**{field: value})  # type: ignore[arg-type]


def test_queue_names_in_a_variable_must_not_be_empty() -> None:
    """A comma too many in CONVOLAB_QUEUES is a mistake that is told."""
    message = refusal({"CONVOLAB_QUEUES": "audio,,image"})

    assert message.startswith("CONVOLAB_QUEUES='audio,,image': expected ")
    assert message.endswith("a name is empty")


def test_a_list_of_queues_becomes_a_tuple_and_whole_seconds_become_floats() -> None:
    """Values are kept in the type of their field, so that equal settings are equal."""
    settings = Settings(queues=["a", "b"], idle_min=1)  # type: ignore[arg-type]

    assert settings.queues == ("a", "b")
    assert isinstance(settings.idle_min, float)


@pytest.mark.parametrize(
    ("name", "remark"),
    [
        (
            "CONVOLAB_CONCURENCY",
            "CONVOLAB_CONCURENCY: no such setting; did you mean CONVOLAB_CONCURRENCY?",
        ),
        ("convolab_queues", "convolab_queues: no such setting; did you mean CONVOLAB_QUEUES?"),
    ],
)
def test_an_unknown_variable_is_told_with_the_nearest_known_one(name: str, remark: str) -> None:
    """It stops nothing, unless that is asked for: other software uses our prefix, too."""
    settings = Settings.from_env({name: "3", "CONVOLAB_CONCURRENCY": "2"})

    assert settings.remarks == (remark,)
    assert settings == Settings(concurrency=2)
    assert settings.replace(concurrency=3).remarks == (remark,)
    assert refusal({name: "3", "CONVOLAB_STRICT": "on"}) == remark


@pytest.mark.parametrize("service", ["convolab", "convolab-worker", "convolab-redis", "redis"])
def test_what_kubernetes_and_docker_write_for_a_service_is_nothing_to_tell(service: str) -> None:
    """Every container of the namespace has these, strictly configured ones too."""
    start, at = service.upper().replace("-", "_"), "tcp://10.3.1.4:8080"
    links = {
        "SERVICE_HOST": "10.3.1.4", "SERVICE_PORT": "8080", "SERVICE_PORT_HTTP_METRICS": "9090",
        "PORT": at, "PORT_8080_TCP": at, "PORT_8080_TCP_PROTO": "tcp", "PORT_8080_TCP_PORT": "8080",
        "PORT_8080_TCP_ADDR": "10.3.1.4", "ENV_LANG": "C.UTF-8",
    }  # fmt: skip
    environ = {f"{start}_{name}": value for name, value in links.items()}

    settings = Settings.from_env({**environ, "CONVOLAB_STRICT": "on"})

    assert (settings.remarks, settings.port) == ((), 8080)


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("LOG_LEVEL", "warn", "log_level", "warning"),
        ("LOG_LEVEL", "TRACE", "log_level", "debug"),
        ("LOG_LEVEL", "20", "log_level", "info"),
        ("LOG_LEVEL", "fatal", "log_level", "critical"),
        ("LOG_LEVEL", "Notice", "log_level", "info"),
        ("LOG_FORMAT", "pretty", "log_format", "text"),
        ("LOG_FORMAT", "structured", "log_format", "json"),
    ],
)
def test_other_systems_names_are_understood(
    variable: str, text: str, field: str, value: object
) -> None:
    """LOG_LEVEL and LOG_FORMAT belong to everybody."""
    settings = Settings.from_env({variable: text})

    assert getattr(settings, field) == value
    assert settings.remarks == ()


@pytest.mark.parametrize(
    ("variable", "text", "default"),
    [
        ("LOG_LEVEL", "loud", "info"),
        ("LOG_LEVEL", "convolab=debug,*=info", "info"),
        ("LOG_FORMAT", "logfmt", "auto"),
        ("LOG_FORMAT", "%(message)s", "auto"),
        ("PORT", "tcp://10.3.1.4:8080", "8080"),
        ("PORT", "65536", "8080"),
        ("PORT", "http", "8080"),
        ("K_SERVICE", "a service", "unset"),
    ],
)
def test_what_belongs_to_everybody_never_stops_a_process(
    variable: str, text: str, default: str
) -> None:
    """What can't be understood is told, and the default holds, strictly too."""
    settings = Settings.from_env({variable: text, "CONVOLAB_STRICT": "on"})

    assert settings == Settings(strict_variables="on")
    assert settings.remarks == (f"{variable}={text!r}: not understood, so {default}",)


def test_a_client_reads_only_what_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with a worker's variable in its environment does not stop an API."""
    monkeypatch.setenv("CONVOLAB_LOCK_DURATION", "long")
    monkeypatch.setenv("CONVOLAB_QUEUES", "audio")

    client = JobClient(prefix="p")

    assert (client.settings.queues, client.settings.prefix) == (("audio",), "p")
    with pytest.raises(ConfigurationError, match="CONVOLAB_LOCK_DURATION"):
        Settings.from_env()
    monkeypatch.setenv("CONVOLAB_WAKE_URL", "nowhere")
    with pytest.raises(ConfigurationError, match="CONVOLAB_WAKE_URL"):
        JobClient()


def test_other_programs_variables_are_left_alone() -> None:
    """Only names that start with CONVOLAB_ are ours to judge."""
    settings = Settings.from_env({"CONVOLABX": "1", "REDIS_URLS": "x", "PATH": "/bin"})

    assert settings == Settings()


def test_an_unknown_override_is_named_with_the_nearest_known_one() -> None:
    """A mistyped keyword argument is an error that suggests what was meant."""
    with pytest.raises(ConfigurationError, match="did you mean concurrency"):
        Settings().replace(concurency=3)

    message = refusal({}, concurency=3)

    assert message == "concurency: no such setting; did you mean concurrency?"


def test_all_problems_are_told_at_once() -> None:
    """One error lists every wrong variable, argument and name."""
    environ = {
        "CONVOLAB_CONCURRENCY": "0",
        "CONVOLAB_IDLE_MIN": "soon",
        "CONVOLAB_QUEUE": "a",
        "CONVOLAB_STRICT": "on",
        "CONVOLAB_WAKE_RATE": "slow",
    }

    message = refusal(environ, park_limit=-1)

    first, *problems = message.splitlines()
    assert first == "5 settings are wrong:"
    assert [problem.split("=")[0].split(":")[0].strip() for problem in problems] == [
        "CONVOLAB_QUEUE",
        "CONVOLAB_CONCURRENCY",
        "CONVOLAB_IDLE_MIN",
        "CONVOLAB_WAKE_RATE",
        "park_limit",
    ]


def test_the_first_wait_is_no_longer_than_the_longest() -> None:
    """A rule across fields names both, each as the user gave it."""
    from_variables = refusal({"CONVOLAB_IDLE_MIN": "1h"})
    from_both = refusal({"CONVOLAB_IDLE_MAX": "1s"}, idle_min=90.0)

    assert from_variables == "CONVOLAB_IDLE_MIN=1h: expected no more than idle_max=30m"
    assert from_both == "idle_min=90s: expected no more than CONVOLAB_IDLE_MAX=1s"


def test_replace_changes_some_and_checks_the_whole() -> None:
    """Replace keeps the rest, and applies the rules across fields again."""
    settings = Settings(idle_min=10.0, wake_token="t0ken")

    changed = settings.replace(idle_max=20.0)
    assert changed == settings.__replace__(idle_max=20.0)  # as copy.replace calls it

    assert (changed.idle_min, changed.idle_max, changed.wake_token) == (10.0, 20.0, "t0ken")
    assert settings.idle_max == 1800.0
    with pytest.raises(ConfigurationError, match="idle_min=10s: expected no more than idle_max=5s"):
        settings.replace(idle_max=5.0)


def test_settings_can_not_be_changed_in_place() -> None:
    """Settings are frozen: what was checked stays as it was."""
    settings = Settings()

    with pytest.raises(AttributeError, match=r"'concurrency' can't be changed: replace\(\)"):
        settings.concurrency = 1  # type: ignore[misc]
    with pytest.raises(AttributeError, match=r"'concurrency' can't be changed: replace\(\)"):
        del settings.concurrency

    assert settings.concurrency == 8


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379",
        "redis://10.0.0.7",
        "redis://:s3cret@redis.internal:6380/2",
        "rediss://default:AX-k_9~.z@eu1-tidy-cat-1.upstash.io:6379",
    ],
)
def test_most_addresses_are_plain(url: str) -> None:
    """They mean what they would mean to the judge of all others, which need not be imported."""
    assert plain_redis_url(url) == redis_url(url)


@given(
    st.from_regex(
        r"(redis|rediss|unix|Redis|http)://(([\w%~]{0,3}):([\w%~@:/]{0,4})@)?[a-zA0-9.\[:-]{0,6}"
        r"(:[0-9a]{0,6})?(/[0-9@]{0,11})?([?]db=[0-9])?(#)?",
        fullmatch=True,
    )
)
def test_no_address_is_plain_that_means_something_else_to_the_judge(url: str) -> None:
    plain = plain_redis_url(url)

    assert plain is None or plain == redis_url(url)


def test_settings_of_the_same_values_are_equal() -> None:
    """What they passed over on the way is not part of that, and the server they were given is."""
    settings = Settings(concurrency=3)
    told = Settings(concurrency=3, remarks=("CONVOLAB_SPEED: no such variable",))
    served = Settings.from_redis(redis.Redis(), concurrency=3)

    assert settings == told == copy.copy(settings)
    assert settings == pickle.loads(pickle.dumps(settings))  # noqa: S301 - our own
    assert hash(settings) == hash(told)
    assert settings not in (Settings(), served, {"concurrency": 3})
    assert served == served.replace()


def test_an_option_that_does_not_exist_is_a_type_error() -> None:
    """As of any function."""
    expected = r"got an unexpected keyword argument 'concurency'; did you mean concurrency\?"
    with pytest.raises(TypeError, match=expected):
        Settings(concurency=3)  # type: ignore[call-arg]


def test_a_repr_shows_the_settings_without_their_secrets() -> None:
    """Neither the password of the address nor the wake token is in the repr."""
    settings = Settings(redis_url="rediss://user:hunter2@example.com:6380", wake_token="t0ken")

    shown = repr(settings)

    assert "redis_url='rediss://user:***@example.com:6380'" in shown
    assert "wake_token='***'" in shown
    assert "concurrency=8" in shown
    assert "hunter2" not in shown
    assert "t0ken" not in shown


@pytest.mark.parametrize(
    "environ",
    [
        {"REDIS_URL": "https://default:hunter2@example.com"},
        {"REDIS_URL": "default:hunter2@example.com:6379"},
        {"REDIS_URL": "redis://:hunter2/with/slashes@example.com:6379"},
        {"REDIS_URL": "redis://default:hunter2@at@example.com:port"},
        {"REDIS_URL": "redis://example.com/x?password=hunter2"},
        {"CONVOLAB_WAKE_TOKEN": "hunter2 hunter2"},
    ],
)
def test_an_error_never_shows_a_secret(environ: dict[str, str]) -> None:
    """What is wrong is said without the password or the token in it."""
    message = refusal(environ)

    assert "hunter2" not in message
    assert "***" in message


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@host", "redis://:***@host"),
        ("redis://user:secret@host:1/2", "redis://user:***@host:1/2"),
        ("redis://secret@host", "redis://***@host"),
        ("redis://user:secret", "redis://user:***"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("unix://user:secret@/run/redis.sock?db=1", "unix://user:***@/run/redis.sock?db=1"),
        ("redis://host?db=1&password=secret", "redis://host?db=1&password=***"),
    ],
)
def test_a_masked_address_keeps_everything_but_the_password(url: str, masked: str) -> None:
    """The rest of the address stays readable."""
    assert mask_url(url) == masked


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://localhost",
        "redis://user:p%2Fss@[::1]:6379/15",
        "REDISS://example.com:6380",
        "unix:///run/redis.sock",
        "unix://user:secret@/run/redis.sock?db=1",
    ],
)
def test_every_form_of_redis_address_is_accepted(url: str) -> None:
    """All that redis-py understands is taken as it is."""
    assert Settings(redis_url=url).redis_url == url


def test_importing_the_settings_loads_nothing_heavy() -> None:
    """The command line can refuse a flag without asyncio, redis, structlog or aiohttp."""
    program = "import sys, convolab_worker.settings; print(*sys.modules, sep='\\n')"

    listed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )

    assert not {"asyncio", "redis", "structlog", "aiohttp", "bullmq"} & set(
        listed.stdout.splitlines()
    )


def test_the_documentation_has_every_variable_with_its_default() -> None:
    """docs/running.md has a row for each setting, as the table in the code says it."""
    text = DOCUMENTED.read_text(encoding="utf-8")

    missing = [
        row
        for option in OPTIONS.values()
        if (row := f"| `{option.variable}` | `{option.default_text}` | {option.help} |") not in text
    ]

    assert missing == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("audio generation, b", ("audio generation", "b")),
        ('["a, b", "c/d e"]', ("a, b", "c/d e")),
        ("[a", ("[a",)),
        ("käse/🧀 (2)", ("käse/🧀 (2)",)),
    ],
)
def test_queues_have_the_names_that_node_gives_them(text: str, names: tuple[str, ...]) -> None:
    """Spaces and slashes are part of a name; a list in JSON has names with commas."""
    settings = Settings.from_env({"CONVOLAB_QUEUES": text, "CONVOLAB_PREFIX": "our jobs, all"})

    assert (settings.queues, settings.prefix) == (names, "our jobs, all")
    assert OPTIONS["queues"].read(OPTIONS["queues"].kind.text(names)) == names
