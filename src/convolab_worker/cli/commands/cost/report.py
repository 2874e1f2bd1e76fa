"""Reads the flags and the prices, and prints the cost model's report as text or JSON."""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files
from typing import TYPE_CHECKING

from convolab_worker.cli.commands.cost import flags, model
from convolab_worker.cli.commands.cost.prices import Hosting, Prices
from convolab_worker.cli.commands.cost.text import EVENTS, as_text, assumptions
from convolab_worker.cli.output import as_json, result
from convolab_worker.errors import ConfigurationError, InvalidPayload
from convolab_worker.payloads.decode import decode_data, decoder
from convolab_worker.settings import Settings
from convolab_worker.worker.dispatch.idle_backoff import Bounds

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def main(args: argparse.Namespace) -> int:
    """Print what a day and a month cost, and draw it with ``--plot``; return 0.

    Raises ConfigurationError for idle waits, prices or a picture's file that can't be used.
    """
    workload, hosting, prices = _workload(args), _hosting(args), load_prices(args.prices)
    rows = [
        row
        for row in model.table(workload, prices, hosting)
        if args.wake in (None, row.way.sleeps) or row.way.bullmq_waits
    ]
    told = assumptions(workload, prices, hosting)
    if args.plot:
        from convolab_worker.cli.commands.cost.plot import draw

        draw(rows, prices, args.plot)
    report = {
        "workload": asdict(workload),
        "hosting": asdict(hosting),
        "ways": [asdict(row) | {"total_usd": row.total_usd} for row in rows],
        "events": [asdict(event) for event in EVENTS],
        "assumptions": told,
        "prices": asdict(prices),
    }
    result(as_json(report) if args.json else as_text(workload, rows, told))
    return 0


def _workload(args: argparse.Namespace) -> model.Workload:
    settings = Settings(idle_min=args.idle_min, idle_max=args.idle_max)  # checks them
    kinds = args.jobs or map(flags.read_jobs, flags.DEFAULT_JOBS)
    delayed_jobs, mean_delay = args.delayed or (0.0, 0.0)
    return model.Workload(
        kinds=tuple(
            model.JobKind(name=name, jobs_per_day=jobs, mean_seconds=seconds)
            for name, jobs, seconds in kinds
        ),
        queues=args.queue_count,
        workers=args.worker_count,
        concurrency=args.slots,
        progress_updates_per_job=args.progress,
        delayed_jobs_per_day=delayed_jobs,
        mean_delay_seconds=mean_delay,
        idle=Bounds(shortest=settings.idle_min, longest=settings.idle_max),
    )


def _hosting(args: argparse.Namespace) -> Hosting:
    return Hosting(
        vcpu=args.vcpu,
        memory_gib=args.memory,
        cold_start_seconds=args.cold_start,
        free_tier=not args.no_free_tier,
        always_on_usd_per_month=args.host_usd,
    )


def load_prices(path: Path | None = None) -> Prices:
    """Read the prices that ship with the package, or those of ``path``.

    Raises ConfigurationError that names the file, the field and what was expected.
    """
    file = path or files(__package__).joinpath("prices.json")
    try:
        raw = file.read_bytes()
        document = decode_data(raw)
        prices: Prices = decoder(Prices)(raw)
    except (OSError, InvalidPayload) as error:
        msg = f"{file}: expected a JSON file of prices: {error}"
        raise ConfigurationError(msg) from error
    for name, section in asdict(prices).items():
        if isinstance(section, dict) and (unknown := sorted({*document[name]} - {*section})):
            msg = f"{file}: {name}.{unknown[0]}: expected one of {', '.join(section)}"
            raise ConfigurationError(msg)
    return prices
