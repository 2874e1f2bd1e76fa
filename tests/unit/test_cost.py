"""The cost model: its arithmetic, its properties, its prices, and what the command prints."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from convolab_worker.cli import main as cli_main
from convolab_worker.cost import WAYS, Hosting, Row, table
from convolab_worker.cost_assumptions import assumptions
from convolab_worker.cost_checks import checks
from convolab_worker.cost_counts import (
    DAY_SECONDS,
    STANDARD_IDLE,
    JobKind,
    Workload,
    bullmq_idle_per_day,
    our_idle_per_day,
    our_waits_per_day,
    wait_ends,
)
from convolab_worker.cost_report import add_arguments, main
from convolab_worker.cost_text import WIDTH, as_text, duration
from convolab_worker.errors import ConfigurationError
from convolab_worker.prices import compute_usd, load_prices, parse_prices, redis_bill, scheduler_usd
from convolab_worker.settings import Settings
from convolab_worker.worker.dispatch.idle_backoff import Bounds

PRICES = load_prices()
SLACK = 1e-6  # of a command: rounding only

JOBS = st.floats(min_value=0, max_value=1e6)
KINDS = st.lists(
    st.builds(
        JobKind,
        name=st.sampled_from(["dialogue", "audio", "image", "course"]),
        jobs_per_day=JOBS,
        mean_seconds=st.floats(min_value=0, max_value=3600),
    ),
    max_size=4,
).map(tuple)
BOUNDS = st.tuples(
    st.floats(min_value=0.01, max_value=86_400), st.floats(min_value=1, max_value=1e4)
).map(lambda pair: Bounds(shortest=pair[0], longest=min(pair[0] * pair[1], 86_400.0)))
WORKLOADS = st.builds(
    Workload,
    kinds=KINDS,
    queues=st.integers(min_value=1, max_value=50),
    workers=st.integers(min_value=1, max_value=20),
    progress_updates_per_job=st.floats(min_value=0, max_value=100),
    delayed_jobs_per_day=st.floats(min_value=0, max_value=1e4),
    mean_delay_seconds=st.floats(min_value=0, max_value=1e6),
    idle=BOUNDS,
)
HOSTINGS = st.builds(
    Hosting,
    vcpu=st.floats(min_value=0, max_value=8),
    memory_gib=st.floats(min_value=0, max_value=32),
    cold_start_seconds=st.floats(min_value=0, max_value=60),
    free_tier=st.booleans(),
    always_on_usd_per_month=st.none() | st.floats(min_value=0, max_value=1000),
)


def rows_by_key(workload: Workload, hosting: Hosting | None = None) -> dict[str, Row]:
    """Return the table's rows by the keys of their ways."""
    rows = table(workload, PRICES, hosting=hosting or Hosting())
    return {row.way.key: row for row in rows}


def run(capsys: pytest.CaptureFixture[str], flags: str = "") -> str:
    """Return what the command prints with these flags."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    assert main(parser.parse_args(shlex.split(flags))) == 0
    return capsys.readouterr().out


# commands


def test_the_model_gives_what_was_measured_for_four_pollers() -> None:
    """Four polling workers send 149,760 commands a day, about 634,000 of them billable."""
    polling = bullmq_idle_per_day(
        Workload(kinds=(), queues=4), drain_seconds=5.0, stalled_seconds=30.0
    )

    assert polling.client_sent == pytest.approx(149_760)
    assert polling.billable == pytest.approx(634_000, rel=0.001)


def test_a_steady_idle_day_costs_two_commands_a_wait() -> None:
    """With no job, this worker waits 48 times for half an hour, which is 96 commands."""
    idle = our_idle_per_day(Workload(kinds=()))

    assert idle.client_sent == idle.billable == pytest.approx(96)


def test_the_backoff_is_that_of_the_worker() -> None:
    """The waits after a job are those of ``idle`` without jitter: 5, 40 and 320 s."""
    ends = wait_ends(STANDARD_IDLE)

    assert ends == [5, 45, 365]


def test_the_standard_bounds_are_the_defaults_of_the_settings() -> None:
    """A workload that says nothing of the waits has those of a worker without settings."""
    settings = Settings()

    assert Bounds(shortest=settings.idle_min, longest=settings.idle_max) == STANDARD_IDLE


def test_one_lone_job_a_day_costs_the_backoff_and_little_more() -> None:
    """One job a day adds its three short waits, and takes less than one long one away."""
    waits = our_waits_per_day(1.0, STANDARD_IDLE)

    assert 48 + 2 < waits < 48 + 3


def test_every_measured_number_is_met() -> None:
    """No measured number is more than 7 % from the model, and the model is never below by 1 %."""
    measured = [check for check in checks([], PRICES) if check.measured is not None]

    assert len(measured) == 7
    for check in measured:
        assert check.model is not None
        assert check.measured is not None
        assert -0.01 < check.model / check.measured - 1 < 0.07, check.what


def test_the_proposals_table_is_there() -> None:
    """69,120 polls, 25 USD before and 3 USD after stand beside what the model makes of them."""
    rows = table(Workload(kinds=()), PRICES)

    proposed = {check.what: check for check in checks(rows, PRICES) if check.proposal is not None}

    assert [check.proposal for check in proposed.values()] == [69_120, 25, 3]
    assert proposed["four pollers: polls a day"].model == 69_120
    assert all(check.model is not None for check in proposed.values())


@given(WORKLOADS, HOSTINGS)
def test_nothing_is_negative_or_infinite(workload: Workload, hosting: Hosting) -> None:
    """Counts, money and waits are finite and not below 0, and idle is no more than all."""
    for row in table(workload, PRICES, hosting=hosting):
        numbers = (
            row.idle.client_sent,
            row.idle.billable - row.idle.client_sent,
            row.commands.client_sent - row.idle.client_sent,
            row.commands.billable - row.commands.client_sent,
            row.instance_seconds,
            row.starts,
            row.redis.plan_usd,
            row.redis.pay_as_you_go_usd - row.redis.plan_usd,
            row.compute_usd,
            row.scheduler_usd,
            row.worst_pickup_seconds,
        )
        assert all(-SLACK <= number < float("inf") for number in numbers)


@given(WORKLOADS, st.integers(min_value=0, max_value=3), st.floats(min_value=0, max_value=1e5))
def test_more_jobs_never_cost_fewer_commands(workload: Workload, place: int, more: float) -> None:
    """Adding jobs of any kind lowers no count of commands where no HTTP call wakes.

    Where one does, a job that runs long may keep the worker awake for others and save starts.
    """
    kinds = workload.kinds or (JobKind(name="audio", jobs_per_day=0.0, mean_seconds=30.0),)
    place %= len(kinds)
    grown = replace(kinds[place], jobs_per_day=kinds[place].jobs_per_day + more)
    before = replace(workload, kinds=kinds)
    after = replace(workload, kinds=(*kinds[:place], grown, *kinds[place + 1 :]))
    ways = [way for way in WAYS if not way.wakes]

    pairs = zip(table(before, PRICES, ways=ways), table(after, PRICES, ways=ways), strict=True)

    for few, many in pairs:
        assert many.commands.billable >= few.commands.billable * (1 - 1e-9) - SLACK
        assert many.commands.client_sent >= few.commands.client_sent * (1 - 1e-9) - SLACK


@given(WORKLOADS, st.floats(min_value=1, max_value=100))
def test_more_of_the_same_never_costs_fewer_commands(workload: Workload, factor: float) -> None:
    """The same mix of jobs, more of each, lowers no count in any way of working."""
    kinds = tuple(replace(kind, jobs_per_day=kind.jobs_per_day * factor) for kind in workload.kinds)

    pairs = zip(table(workload, PRICES), table(replace(workload, kinds=kinds), PRICES), strict=True)

    for few, many in pairs:
        assert many.commands.billable >= few.commands.billable * (1 - 1e-9) - SLACK
        assert many.commands.client_sent >= few.commands.client_sent * (1 - 1e-9) - SLACK


@given(WORKLOADS, st.integers(min_value=1, max_value=20))
def test_more_queues_never_cost_fewer_commands(workload: Workload, more: int) -> None:
    """Adding queues lowers no count of commands, in any way of working."""
    after = replace(workload, queues=workload.queues + more)

    pairs = zip(table(workload, PRICES), table(after, PRICES), strict=True)

    for few, many in pairs:
        assert many.commands.billable >= few.commands.billable * (1 - 1e-12)


@given(WORKLOADS, st.integers(min_value=1, max_value=20))
def test_more_workers_never_cost_fewer_commands(workload: Workload, more: int) -> None:
    """Adding worker processes lowers no count of idle commands of those always on."""
    after = replace(workload, workers=workload.workers + more)

    few, many = rows_by_key(workload), rows_by_key(after)

    for key in ("bullmq-polling", "bullmq-tuned", "always-on"):
        assert many[key].idle.billable >= few[key].idle.billable * (1 - 1e-9)


@given(WORKLOADS, st.integers(min_value=1, max_value=50))
def test_idle_does_not_depend_on_the_number_of_queues(workload: Workload, queues: int) -> None:
    """This worker waits on all queues at once, so the always-on row is the same for any number."""
    other = replace(workload, queues=queues)

    assert rows_by_key(other)["always-on"] == rows_by_key(workload)["always-on"]


@given(WORKLOADS, st.integers(min_value=1, max_value=100))
def test_idle_does_not_depend_on_the_number_of_slots(workload: Workload, slots: int) -> None:
    """Concurrency changes no row at all."""
    other = replace(workload, concurrency=slots)

    assert table(other, PRICES) == table(workload, PRICES)


@given(BOUNDS, st.floats(min_value=1e-12, max_value=1e-6))
def test_a_day_of_almost_no_job_is_a_day_of_none(bounds: Bounds, jobs: float) -> None:
    """The average number of waits has no jump where the jobs become none."""
    waits = our_waits_per_day(jobs, bounds)

    assert waits == pytest.approx(DAY_SECONDS / bounds.longest, rel=1e-3, abs=1e-3)


@given(BOUNDS, JOBS)
def test_waits_are_bounded_by_the_shortest_and_the_longest(bounds: Bounds, jobs: float) -> None:
    """A day has no more waits than of the shortest length, whatever the jobs."""
    waits = our_waits_per_day(jobs, bounds)

    assert 0 <= waits <= DAY_SECONDS / bounds.shortest + SLACK


@given(WORKLOADS)
def test_this_worker_idles_for_less_than_bullmq(workload: Workload) -> None:
    """At the standard bounds no workload makes this worker's waiting dearer than polling."""
    rows = rows_by_key(replace(workload, idle=STANDARD_IDLE, delayed_jobs_per_day=0.0))

    assert rows["always-on"].idle.billable < rows["bullmq-polling"].idle.billable


# waits


def test_worst_waits_are_push_cold_start_and_interval() -> None:
    """A push is milliseconds, a wake a cold start, a scheduler its interval more."""
    rows = rows_by_key(Workload(kinds=()), Hosting(cold_start_seconds=2.0))

    waits = {key: round(row.worst_pickup_seconds, 1) for key, row in rows.items()}

    assert waits == {
        "bullmq-polling": 0.0,
        "bullmq-tuned": 0.0,
        "always-on": 0.0,
        "wake-http": 2.0,
        "wake-2m": 122.0,
        "wake-5m": 302.0,
        "wake-both": 2.0,
    }


def test_a_lost_signal_is_found_by_the_next_look() -> None:
    """A lost marker waits for the wait's end; a lost wake for the scheduler, or the next wake."""
    rows = rows_by_key(Workload(kinds=()), Hosting(cold_start_seconds=0.0))

    lost = {key: row.if_signal_lost_seconds for key, row in rows.items()}

    assert lost["bullmq-tuned"] == 300
    assert lost["always-on"] == 1800
    assert lost["wake-http"] is None
    assert lost["wake-both"] == pytest.approx(300, abs=0.1)


# money


def test_the_cheapest_plan_is_taken() -> None:
    """Few commands are free, some are paid by the command, many go on the fixed plan."""
    plans = {
        per_day: redis_bill(PRICES.redis, per_day).plan for per_day in (16_666, 16_667, 634_000)
    }

    assert plans == {16_666: "free", 16_667: "metered", 634_000: "fixed"}


def test_a_used_up_free_tier_is_paid() -> None:
    """Without free allowances every command, second and scheduler job is charged."""
    redis = redis_bill(PRICES.redis, 1000.0, free_tier=False)
    compute = compute_usd(
        PRICES.request_based,
        vcpu_seconds_per_day=1000.0,
        gib_seconds_per_day=0.0,
        requests_per_day=0.0,
        free_tier=False,
    )
    scheduler = scheduler_usd(PRICES.scheduler, 1, free_tier=False)

    assert redis.plan_usd == pytest.approx(0.06)
    assert compute == pytest.approx(30_000 * 0.000024)
    assert scheduler == pytest.approx(0.10)


def test_an_always_on_instance_has_its_price() -> None:
    """One vCPU and half a GiB for 30 days cost 44.03 USD, what is free taken off."""
    row = rows_by_key(Workload(kinds=()))["always-on"]

    assert row.compute_usd == pytest.approx(44.03, abs=0.01)


def test_another_host_has_the_price_it_is_given() -> None:
    """A host of a given price replaces the instance, once for each worker process."""
    rows = rows_by_key(Workload(kinds=(), workers=2), Hosting(always_on_usd_per_month=5.0))

    assert rows["always-on"].compute_usd == 10.0
    assert rows["wake-http"].compute_usd == 0.0


def test_every_price_is_dated_and_has_a_source() -> None:
    """Each section says where and when its prices were read."""
    sections = (PRICES.redis, PRICES.request_based, PRICES.instance_based, PRICES.scheduler)

    for section in sections:
        assert section.source.startswith("https://")
        assert section.read.startswith("20")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"redis": None}, "redis: expected an object with provider"),
        ({"scheduler": {"provider": "x"}}, "scheduler.source: expected text, got None"),
        ({"scheduler": {"cheap": 1}}, "scheduler.cheap: expected one of provider"),
        ({"currency": "EUR"}, "currency: expected USD, got 'EUR'"),
    ],
)
def test_wrong_prices_are_named(change: dict[str, object], message: str) -> None:
    """An error names the file, the field and what was expected."""
    shipped = json.loads(Path(_shipped_prices()).read_text(encoding="utf-8"))

    with pytest.raises(ConfigurationError, match=f"mine.json: {message}"):
        parse_prices(shipped | change, "mine.json")


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf"), True, "1", None])
def test_a_price_is_a_number(amount: object) -> None:
    """Anything but a finite number that is not negative is refused by the name of its field."""
    shipped = json.loads(Path(_shipped_prices()).read_text(encoding="utf-8"))
    shipped["scheduler"]["usd_per_job_month"] = amount

    with pytest.raises(ConfigurationError, match="scheduler.usd_per_job_month: expected a number"):
        parse_prices(shipped, "mine.json")


def _shipped_prices() -> Path:
    import convolab_worker.prices

    return Path(convolab_worker.prices.__file__).parent / "data" / "prices.json"


# bad numbers


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"queues": 0}, "queues: expected a whole number, 1 or more, got 0"),
        ({"workers": 0}, "workers: expected a whole number"),
        ({"progress_updates_per_job": -1.0}, "progress updates a job: expected a finite number"),
        ({"mean_delay_seconds": float("nan")}, "mean delay: expected a finite number"),
        ({"idle": Bounds(shortest=9.0, longest=5.0)}, "idle waits from 9 to 5 s: expected"),
        ({"idle": Bounds(shortest=0.0, longest=5.0)}, "idle waits from 0 to 5 s: expected"),
        (
            {"kinds": (JobKind(name="audio", jobs_per_day=-1.0, mean_seconds=1.0),)},
            "audio jobs a day: expected a finite number, 0 or more, got -1",
        ),
    ],
)
def test_a_workload_that_makes_no_sense_is_refused(
    numbers: dict[str, object], message: str
) -> None:
    """The error names the number, what was expected and what was given."""
    with pytest.raises(ConfigurationError, match=message):
        Workload(**({"kinds": ()} | numbers))  # type: ignore[arg-type]


def test_a_hosting_that_makes_no_sense_is_refused() -> None:
    """The error names the number."""
    with pytest.raises(ConfigurationError, match="vCPU: expected a finite number, 0 or more"):
        Hosting(vcpu=-1.0)


# what is printed


@given(WORKLOADS, HOSTINGS)
def test_no_line_is_wider_than_a_hundred_columns(workload: Workload, hosting: Hosting) -> None:
    """The report fits 100 columns, addresses of price pages included, up to a million jobs."""
    rows = table(workload, PRICES, hosting=hosting)
    told = assumptions(workload, PRICES, hosting)

    text = as_text(workload, rows, checks(rows, PRICES), told)

    assert max(map(len, text.splitlines())) <= WIDTH


def test_the_report_has_every_way_and_every_assumption(capsys: pytest.CaptureFixture[str]) -> None:
    """Without flags, the tables of the ConvoLab app are printed with all that they rest on."""
    text = run(capsys)

    starts = [line.partition("  ")[0] for line in text.splitlines()]
    assert all(starts.count(way.name) == 2 for way in WAYS)
    assert text.startswith("A day of 105 jobs (40 dialogue of 20 s, 40 audio of 45 s,")
    assert "69,120" in text
    assert "149,760" in text
    assert "Upstash" in text
    assert "https://cloud.google.com/scheduler/pricing" in text


def test_json_has_the_numbers_with_their_units(capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints one object: workload, ways, checks, assumptions and prices."""
    report = json.loads(run(capsys, "--json --jobs audio=0:1s"))

    always_on = next(way for way in report["ways"] if way["way"]["key"] == "always-on")
    assert always_on["commands"]["billable"] == pytest.approx(96)
    assert always_on["total_usd"] == pytest.approx(always_on["compute_usd"])
    assert report["workload"]["queues"] == 4
    assert {"hosting", "checks", "assumptions", "prices"} < set(report)


def test_flags_describe_the_workload(capsys: pytest.CaptureFixture[str]) -> None:
    """Jobs replace the defaults, and durations have units."""
    flags = "--jobs audio=10:2m --jobs video=5:90 --queue-count 2 --worker-count 2 --slots 3"

    workload = json.loads(run(capsys, f"--json {flags} --delayed 20:15m --idle-max 1h"))["workload"]

    assert [kind["name"] for kind in workload["kinds"]] == ["audio", "video"]
    assert [kind["mean_seconds"] for kind in workload["kinds"]] == [120, 90]
    assert (workload["queues"], workload["workers"], workload["concurrency"]) == (2, 2, 3)
    assert (workload["delayed_jobs_per_day"], workload["mean_delay_seconds"]) == (20, 900)
    assert workload["idle"] == {"shortest": 5, "longest": 3600}


def test_the_command_line_has_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``convolab-worker cost`` prints the same, and asks for no handlers and no Redis."""
    monkeypatch.setenv("CONVOLAB_REDIS_URL", "not an address")

    code = cli_main.main(["cost", "--json", "--queue-count", "2"])

    assert code == 0
    assert json.loads(capsys.readouterr().out)["workload"]["queues"] == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--jobs", "audio"], "--jobs: 'audio': expected KIND=JOBS:LENGTH"),
        (["--plot", "cost.docx"], "expected a file name that ends in .png, .svg, .pdf"),
        (["--queue", "a"], "unrecognized arguments: --queue a"),
    ],
)
def test_the_command_line_refuses_in_one_line(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    """Wrong usage is exit code 2 and one line on standard error."""
    assert cli_main.main(["cost", *flags]) == 2

    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "ours"),
    [
        ("--wake", ["wake-http", "wake-2m", "wake-5m", "wake-both"]),
        ("--no-wake", ["always-on"]),
    ],
)
def test_wake_chooses_the_ways(
    capsys: pytest.CaptureFixture[str], flag: str, ours: list[str]
) -> None:
    """--wake shows this worker waked, --no-wake always on; bullmq is always there to compare."""
    ways = json.loads(run(capsys, f"--json {flag}"))["ways"]

    assert [way["way"]["key"] for way in ways] == ["bullmq-polling", "bullmq-tuned", *ours]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--jobs audio", "'audio': expected KIND=JOBS:LENGTH, such as audio=40:45s"),
        ("--jobs audio=-1:45s", "expected KIND=JOBS:LENGTH"),
        ("--jobs audio=1:soon", "expected KIND=JOBS:LENGTH"),
        ("--queue-count 0", "'0': expected a whole number, 1 or more"),
        ("--worker-count 1.5", "'1.5': expected a whole number, 1 or more"),
        ("--vcpu nan", "'nan': expected a number, 0 or more"),
        ("--cold-start soon", "'soon': expected a duration such as 90, 90s, 5m or 1h"),
        ("--delayed 20", "'20': expected JOBS:DELAY, such as 20:15m"),
    ],
)
def test_a_wrong_flag_says_what_was_expected(
    capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    """A flag that can't be read ends with code 2 and a message with the flag's form."""
    with pytest.raises(SystemExit) as leaving:
        run(capsys, flags)

    assert leaving.value.code == 2
    assert message in capsys.readouterr().err


def test_jobs_that_slots_can_not_hold_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    """A workload beyond the slots is said to be so, since no wait holds then."""
    text = run(capsys, "--jobs course=10000:5m --slots 8")

    assert "NOT ENOUGH SLOTS: 34.7 jobs would run at once, and there are 8 slots." in text


def test_prices_can_be_replaced(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """--prices takes another file of the same form."""
    prices = json.loads(Path(_shipped_prices()).read_text(encoding="utf-8"))
    prices["redis"]["fixed_plan_usd_per_month"] = 3.0
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(prices), encoding="utf-8")

    ways = json.loads(run(capsys, f"--json --prices {file}"))["ways"]

    assert ways[0]["redis"]["plan_usd"] == 3.0


def test_a_file_of_prices_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The error names the file, whether it is missing or no JSON."""
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")

    for name in ("missing.json", "broken.json"):
        with pytest.raises(ConfigurationError, match=f"{name}: expected a JSON file of prices"):
            run(capsys, f"--prices {tmp_path / name}")


def test_the_documented_table_is_the_models() -> None:
    """docs/costs.md shows the default workload's commands as the model has them."""
    kinds = tuple(
        JobKind(name=name, jobs_per_day=jobs, mean_seconds=seconds)
        for name, jobs, seconds in (
            ("dialogue", 40, 20),
            ("audio", 40, 45),
            ("image", 20, 30),
            ("course", 5, 180),
        )
    )
    page = Path(__file__).parents[2] / "docs" / "costs.md"

    text = page.read_text(encoding="utf-8")

    for row in table(Workload(kinds=kinds), PRICES):
        start = f"| {row.way.name} | {row.commands.billable:,.0f} | {row.idle.billable:,.0f} |"
        assert start in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0054, "5.4 ms"), (2.0054, "2.01 s"), (300, "5 min"), (1800, "30 min"), (86_400, "24 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    """A time has three digits and the unit that suits it."""
    assert duration(seconds) == text


# the picture


def test_a_picture_is_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """--plot writes a picture of the rows beside the tables."""
    pytest.importorskip("matplotlib", reason="the picture needs the extra plot")
    file = tmp_path / "cost.png"

    text = run(capsys, f"--plot {file}")

    assert file.read_bytes().startswith(b"\x89PNG")
    assert "USD a month" in text


def test_a_picture_without_matplotlib_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where matplotlib is missing, the error says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'convolab_worker\[plot\]'"):
        run(capsys, f"--plot {tmp_path / 'cost.png'}")


def test_a_picture_of_no_known_form_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The file's ending has to be one of three."""
    with pytest.raises(ConfigurationError, match="ends in .png, .svg, .pdf"):
        run(capsys, f"--plot {tmp_path / 'cost.docx'}")


def test_a_picture_that_can_not_be_written_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A folder that is not there is named with the flag."""
    pytest.importorskip("matplotlib", reason="the picture needs the extra plot")

    with pytest.raises(ConfigurationError, match="cost.png: can't be written: No such file"):
        run(capsys, f"--plot {tmp_path / 'nowhere' / 'cost.png'}")


def test_nothing_is_drawn_or_counted_before_it_is_needed() -> None:
    """Adding the flags imports neither the model nor matplotlib."""
    import subprocess

    code = (
        "import sys, argparse, convolab_worker.cost_report as report\n"
        "report.add_arguments(argparse.ArgumentParser())\n"
        "heavy = {'matplotlib', 'convolab_worker.cost'} & set(sys.modules)\n"
        "sys.exit(repr(sorted(heavy)) if heavy else 0)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
