"""The command ``cost``: the model's arithmetic, its prices, its flags, and what is printed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from msgspec import to_builtins
from msgspec.structs import asdict, replace

from convolab_worker.cli.commands.cost.command import load_prices
from convolab_worker.cli.commands.cost.model import (
    DAY_SECONDS,
    JobKind,
    Row,
    Workload,
    table,
    wait_ends,
    waits_per_day,
)
from convolab_worker.cli.commands.cost.prices import Hosting
from convolab_worker.cli.commands.cost.report import WIDTH, as_text, count, duration
from convolab_worker.cli.main import main
from convolab_worker.errors import ConfigurationError
from convolab_worker.settings import Settings
from convolab_worker.worker.dispatch.idle_backoff import Bounds

PAGE = Path(__file__).parents[4] / "docs" / "costs.md"
PRICES = load_prices()
SLACK = 1e-6  # of a command: rounding only
STANDARD = Bounds(shortest=Settings().idle_min, longest=Settings().idle_max)
NO_JOBS = Workload(
    kinds=(),
    queues=4,
    workers=1,
    concurrency=8,
    progress_updates_per_job=10.0,
    delayed_jobs_per_day=0.0,
    mean_delay_seconds=0.0,
    idle=STANDARD,
)
CLOUD_RUN = Hosting(
    vcpu=1.0,
    memory_gib=0.5,
    cold_start_seconds=2.0,
    free_tier=True,
    always_on_usd_per_month=None,
)

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
    concurrency=st.integers(min_value=1, max_value=100),
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


def rows_of(workload: Workload, hosting: Hosting = CLOUD_RUN) -> dict[str, Row]:
    """The model's rows by the keys of their ways."""
    return {row.way.key: row for row in table(workload, PRICES, hosting)}


def run(capsys: pytest.CaptureFixture[str], flags: str = "") -> str:
    """Return what the command prints with these flags."""
    assert main(["cost", *shlex.split(flags)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], flags: str) -> str:
    """Return the one line that the command says with these flags, which are wrong."""
    assert main(["cost", *shlex.split(flags)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def assert_no_fewer(before: dict[str, Row], after: dict[str, Row]) -> None:
    """No way of working has fewer commands after than before, but for rounding."""
    for key, few in before.items():
        many = after[key]
        assert many.commands.billable >= few.commands.billable * (1 - 1e-9) - SLACK
        assert many.commands.client_sent >= few.commands.client_sent * (1 - 1e-9) - SLACK


# commands


def test_the_backoff_is_that_of_the_worker() -> None:
    """After a job the waits are 5, 40 and 320 s; one job a day adds these to 48 of half an hour."""
    assert wait_ends(STANDARD) == [5, 45, 365]
    assert 48 + 2 < waits_per_day(1.0, STANDARD) < 48 + 3


@given(WORKLOADS, HOSTINGS)
def test_nothing_is_negative_or_infinite(workload: Workload, hosting: Hosting) -> None:
    for row in table(workload, PRICES, hosting):
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
    before = rows_of(replace(workload, kinds=kinds))
    after = rows_of(replace(workload, kinds=(*kinds[:place], grown, *kinds[place + 1 :])))

    assert_no_fewer({key: row for key, row in before.items() if not row.way.wakes}, after)


@given(WORKLOADS, st.floats(min_value=1, max_value=100))
def test_more_of_the_same_never_costs_fewer_commands(workload: Workload, factor: float) -> None:
    kinds = tuple(replace(kind, jobs_per_day=kind.jobs_per_day * factor) for kind in workload.kinds)

    assert_no_fewer(rows_of(workload), rows_of(replace(workload, kinds=kinds)))


@given(WORKLOADS, st.integers(min_value=1, max_value=20))
def test_more_queues_never_cost_fewer_commands(workload: Workload, more: int) -> None:
    assert_no_fewer(rows_of(workload), rows_of(replace(workload, queues=workload.queues + more)))


@given(WORKLOADS, st.integers(min_value=1, max_value=20))
def test_more_workers_never_cost_fewer_commands(workload: Workload, more: int) -> None:
    few, many = rows_of(workload), rows_of(replace(workload, workers=workload.workers + more))

    for key in ("bullmq-polling", "bullmq-tuned", "always-on"):
        assert many[key].idle.billable >= few[key].idle.billable * (1 - 1e-9)


@given(WORKLOADS, st.integers(min_value=1, max_value=50))
def test_idle_does_not_depend_on_the_number_of_queues(workload: Workload, queues: int) -> None:
    """This worker waits on all queues at once, so the always-on row is the same for any number."""
    other = replace(workload, queues=queues)

    assert rows_of(other)["always-on"] == rows_of(workload)["always-on"]


@given(WORKLOADS, st.integers(min_value=1, max_value=100))
def test_nothing_depends_on_the_number_of_slots(workload: Workload, slots: int) -> None:
    assert rows_of(replace(workload, concurrency=slots)) == rows_of(workload)


@given(BOUNDS, st.floats(min_value=1e-12, max_value=1e-6))
def test_a_day_of_almost_no_job_is_a_day_of_none(bounds: Bounds, jobs: float) -> None:
    waits = waits_per_day(jobs, bounds)

    assert waits == pytest.approx(DAY_SECONDS / bounds.longest, rel=1e-3, abs=1e-3)


@given(BOUNDS, JOBS)
def test_waits_are_bounded_by_the_shortest_one(bounds: Bounds, jobs: float) -> None:
    assert 0 <= waits_per_day(jobs, bounds) <= DAY_SECONDS / bounds.shortest + SLACK


@given(WORKLOADS)
def test_this_worker_idles_for_less_than_bullmq(workload: Workload) -> None:
    rows = rows_of(replace(workload, idle=STANDARD, delayed_jobs_per_day=0.0))

    assert rows["always-on"].idle.billable < rows["bullmq-polling"].idle.billable


# waits


def test_worst_waits_are_push_cold_start_and_interval() -> None:
    waits = {key: round(row.worst_pickup_seconds, 1) for key, row in rows_of(NO_JOBS).items()}

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
    rows = rows_of(NO_JOBS, replace(CLOUD_RUN, cold_start_seconds=0.0))

    assert rows["bullmq-tuned"].if_signal_lost_seconds == 300
    assert rows["always-on"].if_signal_lost_seconds == 1800
    assert rows["wake-http"].if_signal_lost_seconds is None
    assert rows["wake-5m"].if_signal_lost_seconds == pytest.approx(600, abs=0.1)
    assert rows["wake-both"].if_signal_lost_seconds == pytest.approx(300, abs=0.1)


# money


def test_the_cheapest_plan_is_taken() -> None:
    bills = [PRICES.redis.bill(CLOUD_RUN, per_day) for per_day in (16_666, 16_667, 634_000)]

    assert [bill.plan for bill in bills] == ["free", "metered", "fixed"]


def test_a_used_up_free_tier_is_paid() -> None:
    used_up = replace(CLOUD_RUN, free_tier=False, memory_gib=0.0)

    assert PRICES.redis.bill(used_up, 1000.0).plan_usd == pytest.approx(0.06)
    assert PRICES.request_based.usd(used_up, 1000.0) == pytest.approx(30_000 * 0.000024)
    assert PRICES.request_based.usd(used_up, 0.0, 1000.0) == pytest.approx(30_000 * 0.4e-6)
    assert PRICES.scheduler.usd(used_up) == pytest.approx(0.10)


def test_an_always_on_instance_has_its_price() -> None:
    """One vCPU and half a GiB for 30 days cost 44.03 USD, what is free taken off."""
    assert rows_of(NO_JOBS)["always-on"].compute_usd == pytest.approx(44.03, abs=0.01)


def test_another_host_has_the_price_it_is_given() -> None:
    hosting = replace(CLOUD_RUN, always_on_usd_per_month=5.0)

    rows = rows_of(replace(NO_JOBS, workers=2), hosting)

    assert rows["always-on"].compute_usd == 10.0
    assert rows["wake-http"].compute_usd == 0.0


def test_every_price_is_dated_and_has_a_source() -> None:
    for section in (PRICES.redis, PRICES.request_based, PRICES.instance_based, PRICES.scheduler):
        assert section.source.startswith("https://")
        assert section.read.startswith("20")


# a file of prices


@pytest.fixture
def shipped(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    """The prices that ship, as --json prints them."""
    prices: dict[str, dict[str, object]] = json.loads(run(capsys, "--json"))["prices"]
    return prices


def test_the_printed_prices_can_be_changed_and_read_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shipped: dict[str, dict[str, object]]
) -> None:
    shipped["redis"]["fixed_plan_usd_per_month"] = 3
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(shipped), encoding="utf-8")

    printed = json.loads(run(capsys, f"--json --prices {file}"))

    assert printed["ways"][0]["redis"]["plan_usd"] == 3.0
    assert printed["prices"] == shipped


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("redis", None, "redis: expected object, got null"),
        ("scheduler", {"provider": "x"}, "scheduler.source: required field is missing"),
        ("currency", "EUR", 'currency: expected one of the allowed values, got "EUR"'),
        ("redis.cheap", 1, "redis.cheap: unknown field"),
        ("disk", 1, "disk: unknown field"),
        ("redis.provider", "", 'redis.provider: expected str of length >= 1, got ""'),
        ("redis.read", 2026, "redis.read: expected str, got 2026"),
        ("scheduler.usd_per_job_month", -1, "usd_per_job_month: expected float >= 0.0, got -1"),
        ("scheduler.usd_per_job_month", float("nan"), "NaN is not a number in JSON"),
        ("scheduler.usd_per_job_month", "1e999", "usd_per_job_month: expected .* got inf"),
        ("scheduler.usd_per_job_month", True, "usd_per_job_month: expected float, got true"),
        ("scheduler.usd_per_job_month", "1", 'usd_per_job_month: expected float, got "1"'),
        ("scheduler.usd_per_job_month", None, "usd_per_job_month: expected float, got null"),
    ],
)
def test_wrong_prices_are_named(
    tmp_path: Path,
    shipped: dict[str, dict[str, object]],
    place: str,
    value: object,
    message: str,
) -> None:
    section, _, field = place.partition(".")
    changed = {**shipped[section], field: value} if field else value
    text = json.dumps({**shipped, section: changed})
    file = tmp_path / "mine.json"
    # JSON has numbers that no float holds.
    file.write_text(text.replace('"1e999"', "1e999"), encoding="utf-8")

    with pytest.raises(ConfigurationError, match=f"mine.json: .*{message}"):
        load_prices(file)


def test_a_file_of_prices_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")

    for name in ("missing.json", "broken.json"):
        said = refused(capsys, f"--prices {tmp_path / name}")
        assert f"{name}: expected a JSON file of prices" in said


# what is printed


@given(WORKLOADS, HOSTINGS)
def test_no_line_is_wider_than_a_hundred_columns(workload: Workload, hosting: Hosting) -> None:
    """The report fits 100 columns, addresses of price pages included, up to a million jobs."""
    text = as_text(workload, hosting, PRICES, table(workload, PRICES, hosting))

    assert max(map(len, text.splitlines())) <= WIDTH


def test_the_report_has_every_way_and_every_assumption(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys)

    starts = [line.partition("  ")[0] for line in text.splitlines()]
    assert all(starts.count(row.way.name) == 2 for row in rows_of(NO_JOBS).values())
    assert text.startswith("A day of 105 jobs (40 dialogue of 20s, 40 audio of 45s,")
    assert "\nwoken by HTTP                      2,615    10,175          0     100 " in text
    assert "          5        44  bullmq: the run of a job that came alone\n" in text
    assert "- No job is delayed, and no attempt fails.\n" in text
    assert "an instance billed for its whole life" in text
    assert "Free allowances are all for this workload." in text
    for section in (PRICES.redis, PRICES.request_based, PRICES.instance_based, PRICES.scheduler):
        assert f"- {section.provider}: " in text
        assert section.source in text


def test_the_report_says_what_flags_assume(capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--delayed 20:15m --host-usd 1234 --no-free-tier --idle-max 5s --cold-start 7s --vcpu 3"

    text = " ".join(run(capsys, flags).split())

    assert "20 of the jobs are delayed or tried again, by 900 s on average" in text
    assert "a host of 1,234.00 USD a month for each worker process" in text
    assert "Free allowances are used up by something else." in text
    assert "its waits grow from 5 s to 5 s in 0 steps" in text
    assert "7 s more where an instance has to start" in text
    assert "Each has 3 vCPU and 0.5 GiB." in text


def test_jobs_that_slots_can_not_hold_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "--jobs course=10000:5m --slots 8")

    assert "- NOT ENOUGH SLOTS: 34.7 jobs would run at once, and there are 8 slots." in text


def test_json_has_the_numbers_with_their_units(capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints one object; an idle day of this worker is 48 waits of two commands."""
    printed = json.loads(run(capsys, "--json --jobs audio=0:1s"))

    always_on = next(way for way in printed["ways"] if way["way"]["key"] == "always-on")
    assert always_on["commands"]["client_sent"] == pytest.approx(96)
    assert always_on["commands"]["billable"] == pytest.approx(96)
    assert always_on["total_usd"] == pytest.approx(always_on["compute_usd"])
    assert printed["workload"]["queues"] == 4
    assert printed["workload"]["idle"] == {"shortest": 5, "longest": 1800}
    stalled_check = "bullmq: a stalled check"
    assert {"client_sent": 1, "billable": 7, "name": stalled_check} in printed["events"]
    assert "No job is delayed, and no attempt fails." in printed["assumptions"]
    assert set(printed) == {"workload", "hosting", "ways", "events", "assumptions", "prices"}


def test_numbers_and_times_are_short() -> None:
    """Large numbers have no places, larger ones are in millions; a time has three digits."""
    numbers = (0.0, 9999.5, 10_000.4, 9_999_999.0, 12_345_678.0)
    times = (None, 0.0054, 2.0054, 300.0, 302.0054, 86_400.0)

    assert [count(number, 2) for number in numbers] == [
        "0.00", "9,999.50", "10,000", "9,999,999", "12.3 M",
    ]  # fmt: skip
    assert list(map(duration, times)) == ["next wake", "5.4ms", "2.01s", "5m", "302s", "24h"]


# the flags


def test_flags_describe_the_workload(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = "--jobs audio=10:2m --jobs video=5:90 --delayed 20:15m --idle-max 1h"
    flags = f"{jobs} --queue-count 2 --worker-count 5 --slots 3 --progress 0.5"
    audio = JobKind(name="audio", jobs_per_day=10, mean_seconds=120)
    given = Workload(
        kinds=(audio, JobKind(name="video", jobs_per_day=5, mean_seconds=90)),
        queues=2,
        workers=5,
        concurrency=3,
        progress_updates_per_job=0.5,
        delayed_jobs_per_day=20,
        mean_delay_seconds=900,
        idle=Bounds(shortest=5, longest=3600),
    )

    printed = json.loads(run(capsys, f"--json {flags}"))["workload"]

    assert printed == json.loads(json.dumps(to_builtins(given)))


def test_flags_describe_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--vcpu 2 --memory 4 --cold-start 500ms --host-usd 0 --no-free-tier"
    given = Hosting(
        vcpu=2, memory_gib=4, cold_start_seconds=0.5, free_tier=False, always_on_usd_per_month=0
    )

    assert json.loads(run(capsys, f"--json {flags}"))["hosting"] == asdict(given)
    assert json.loads(run(capsys, "--json"))["hosting"] == asdict(CLOUD_RUN)


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
    """--wake shows this worker woken, --no-wake always on; bullmq is always there to compare."""
    ways = json.loads(run(capsys, f"--json {flag}"))["ways"]

    assert [way["way"]["key"] for way in ways] == ["bullmq-polling", "bullmq-tuned", *ours]


def test_neither_handlers_nor_redis_are_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "not an address")

    assert json.loads(run(capsys, "--json"))["workload"]["queues"] == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--queue a", "unknown option --queue; did you mean --queue-count?"),
        ("--jobs audio", "--jobs: 'audio': expected KIND=JOBS:LENGTH, such as audio=40:45s"),
        ("--jobs audio=-1:45s", "expected KIND=JOBS:LENGTH"),
        ("--jobs audio=1:soon", "expected KIND=JOBS:LENGTH"),
        ("--jobs 5=1:5s", "expected KIND=JOBS:LENGTH"),
        ("--queue-count 0", "'0': expected a whole number, 1 or more"),
        ("--worker-count 1.5", "'1.5': expected a whole number, 1 or more"),
        ("--slots -1", "'-1': expected a whole number, 1 or more"),
        ("--progress -1", "'-1': expected a number, 0 or more"),
        ("--vcpu nan", "'nan': expected a number, 0 or more"),
        ("--memory inf", "'inf': expected a number, 0 or more"),
        ("--host-usd x", "'x': expected a number, 0 or more"),
        ("--cold-start soon", "'soon': expected a duration such as 90, 90s, 5m or 1h"),
        ("--delayed 20", "'20': expected JOBS:DELAY, such as 20:15m"),
        ("--delayed 20:nan", "'20:nan': expected JOBS:DELAY, such as 20:15m"),
        ("--idle-min 9 --idle-max 5", "idle_min=9s: expected no more than idle_max=5s"),
        ("--idle-min 0", "idle_min=0.0: expected a duration from 10ms to 24h"),
        ("--plot cost.docx", "expected a file name that ends in .png, .svg, .pdf"),
    ],
)
def test_a_wrong_flag_says_in_one_line_what_was_expected(
    capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    """Wrong usage is exit code 2, before anything is printed."""
    assert message in refused(capsys, flags)


# what docs/costs.md says


def documented(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, its head left out."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.fixture
def default_rows() -> dict[str, Row]:
    """The rows of the workload that the command describes without flags."""
    kinds = (("dialogue", 40, 20), ("audio", 40, 45), ("image", 20, 30), ("course", 5, 180))
    return rows_of(
        replace(
            NO_JOBS,
            kinds=tuple(
                JobKind(name=name, jobs_per_day=jobs, mean_seconds=seconds)
                for name, jobs, seconds in kinds
            ),
        )
    )


def test_the_documented_table_is_the_models(default_rows: dict[str, Row]) -> None:
    assert documented("The default workload") == [
        [
            row.way.name,
            f"{row.commands.billable:,.0f}",
            f"{row.idle.billable:,.0f}",
            f"{row.redis.plan_usd:.2f} ({row.redis.plan})",
            f"{row.compute_usd:.2f}",
            duration(row.worst_pickup_seconds),
            duration(row.if_signal_lost_seconds),
        ]
        for row in default_rows.values()
    ]


def test_the_documented_comparison_is_computed(default_rows: dict[str, Row]) -> None:
    """Each number of a customer's proposal and of a measurement stands beside the model's."""
    one, four = rows_of(replace(NO_JOBS, queues=1)), rows_of(NO_JOBS)
    never_without_delayed = replace(
        NO_JOBS, queues=1, delayed_jobs_per_day=1000.0, mean_delay_seconds=DAY_SECONDS
    )
    polls = 4 * DAY_SECONDS / 5
    model = [
        polls,
        four["bullmq-polling"].idle.client_sent,
        four["bullmq-polling"].idle.billable,
        rows_of(never_without_delayed)["bullmq-polling"].idle.billable,
        one["bullmq-tuned"].idle.billable,
        four["bullmq-tuned"].idle.billable,
        one["always-on"].idle.billable,
        four["always-on"].idle.billable,
        PRICES.redis.bill(CLOUD_RUN, polls).pay_as_you_go_usd,
        default_rows["bullmq-polling"].total_usd,
        default_rows["wake-both"].total_usd,
    ]

    rows = documented("One customer's proposal, and what was measured")

    money = ["USD" in what for what, *_ in rows]
    assert [row[3] for row in rows] == [
        f"{number:,.2f}" if is_money else f"{number:,.0f}"
        for number, is_money in zip(model, money, strict=True)
    ]
    assert [proposal for _, proposal, *_ in rows if proposal] == ["69,120", "25", "3"]


def test_every_measured_number_is_met() -> None:
    """No measured number is more than 7 % from the model, and the model is never below by 1 %."""
    rows = documented("One customer's proposal, and what was measured")
    measured = {
        what: (float(number.replace(",", "")), float(model.replace(",", "")))
        for what, _, number, model in rows
        if number
    }

    assert len(measured) == 7
    for what, (number, model) in measured.items():
        assert -0.01 < model / number - 1 < 0.07, what


# the picture


def test_a_picture_shows_the_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """--plot draws beside the tables; a bar has its number, if it is 0 too."""
    pytest.importorskip("matplotlib", reason="the picture needs the extra plot")
    file = tmp_path / "cost.svg"

    text = run(capsys, f"--jobs audio=0:0 --wake --host-usd 0 --plot {file}")

    drawn = file.read_text(encoding="utf-8")
    for label in ("633,600", "17,280", "10.00", "0.00", "5.4ms", "302s", "woken by HTTP"):
        assert f"<!-- {label} -->" in drawn
    assert "USD a month" in text


def test_a_picture_without_matplotlib_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    said = refused(capsys, f"--plot {tmp_path / 'cost.png'}")

    assert "pip install 'convolab_worker[plot]'" in said


def test_a_picture_that_can_not_be_written_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs the extra plot")

    said = refused(capsys, f"--plot {tmp_path / 'nowhere' / 'cost.png'}")

    assert "cost.png: can't be written: No such file" in said
