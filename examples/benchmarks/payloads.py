"""What a payload costs: JSON read, checked and written, in microseconds, beside libraries alone.

Everything runs in one process, in turns: each round times every contender once, and the median of
the rounds counts, so that what the machine does besides falls on all of them.

    python examples/benchmarks/payloads.py --rounds 30 --json payloads.json
"""

from __future__ import annotations

import argparse
import json
import sys
import timeit
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec
import pydantic
from pydantic.alias_generators import to_camel

from convolab_worker import JobType
from convolab_worker.payloads.decode import decoder
from convolab_worker.payloads.encode import encode_data, encode_json
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, run_alone

_LINES = 200
_ROUND_SECONDS = 0.02


@dataclass
class Line:
    """A part of a large payload."""

    speaker: str
    text: str
    start: float
    tags: list[str] = field(default_factory=list)


@dataclass
class Small:
    """A usual payload."""

    dialogueId: str  # noqa: N815 - Node's name
    text: str
    speed: float = 1.0
    userId: str | None = None  # noqa: N815 - Node's name


@dataclass
class Large:
    """A payload of 31 KB."""

    dialogueId: str  # noqa: N815 - Node's name
    lines: list[Line]


class Model(pydantic.BaseModel):
    """A usual payload, as a model with aliases."""

    model_config = pydantic.ConfigDict(alias_generator=to_camel)

    dialogue_id: str
    text: str
    speed: float = 1.0
    user_id: str | None = None


Run = Callable[[], object]


def cases() -> dict[str, dict[str, Run]]:
    """What is measured, and who does it: first what the worker or the client does."""
    small = Small("d1", "Guten Tag, wie geht es Ihnen?", userId="u1")
    large = Large("d1", [Line(f"s{n % 2}", "Guten Tag " * 8, n / 3, ["a"]) for n in range(_LINES)])
    model = Model.model_validate({"dialogueId": "d1", "text": small.text, "userId": "u1"})
    texts = {
        "small": encode_json(small).encode(),
        "large": encode_json(large).encode(),
        "model": encode_json(model).encode(),
    }
    found: dict[str, dict[str, Run]] = {}
    for name, kind in (("small", Small), ("large", Large)):
        raw = texts[name]
        found[f"read and check a dataclass, {len(raw):,} bytes"] = {
            "this library": partial(decoder(kind), raw),
            "msgspec": partial(msgspec.json.Decoder(kind).decode, raw),
            "json, unchecked": partial(json.loads, raw),
            **_orjson("loads", raw),
        }
    raw = texts["model"]
    found[f"read and check a pydantic model, {len(raw):,} bytes"] = {
        "this library": partial(decoder(Model), raw),
        "pydantic": partial(Model.model_validate_json, raw),
        "json, unchecked": partial(json.loads, raw),
    }
    written: list[tuple[str, object, object]] = [
        ("a small dataclass", small, asdict(small)),
        (f"a list of {_LINES} dataclasses", large.lines, [asdict(line) for line in large.lines]),
    ]
    for name, value, plain in written:
        found[f"write {name}"] = {
            "this library": partial(encode_json, value),
            "msgspec, unchecked": partial(msgspec.json.Encoder().encode, value),
            "json, of dicts": partial(json.dumps, plain),
            **_orjson("dumps", value),
        }
    found["write a pydantic model"] = {
        "this library": partial(encode_json, model),
        "pydantic": partial(model.model_dump_json, by_alias=True),
    }
    found["write a small dataclass to enqueue"] = {
        "by JobType, checked": partial(JobType("work", Small).encode, small),
        "by name": partial(encode_data, small),
    }
    return found


def _orjson(function: str, argument: object) -> dict[str, Run]:
    """What orjson takes, where it is installed: it is not a dependency."""
    try:
        return {"orjson, unchecked": partial(getattr(import_module("orjson"), function), argument)}
    except ImportError:
        return {}


def measure(options: argparse.Namespace) -> Section:
    """Time every contender once in each round."""
    rows: list[tuple[object, ...]] = []
    results = []
    for case, contenders in cases().items():
        took = _rounds(contenders, options.rounds)
        ours = next(iter(took.values()))
        for name, times in took.items():
            ratio = median(one / other for one, other in zip(ours, times, strict=True))
            shown = None if times is ours else f"{ratio:.1f} ×"
            rows.append((case, name, round(median(times), 2), shown))
            results.append({"case": case, "contender": name, "microseconds": times})
        progress(f"{case}: {median(ours):.2f} µs")
    return Section(
        title="Payloads",
        note="Microseconds for one value, the median of the rounds; the last column is how much "
        "longer the first row of each takes, round by round.",
        headings=("what", "by", "µs", "the first takes"),
        rows=rows,
        results=results,
        versions=_versions("msgspec", "pydantic", "orjson"),
    )


def _rounds(contenders: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    timers = {name: timeit.Timer(run) for name, run in contenders.items()}
    counts = {
        name: max(round(_ROUND_SECONDS / (timer.timeit(20) / 20)), 1)
        for name, timer in timers.items()
    }
    took: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            took[name].append(timer.timeit(counts[name]) / counts[name] * 1e6)
    return took


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds of each contender")


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
