"""Draws plans from seeds, runs them, and shrinks those that fail."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, seed as seeded, settings

from tests.model.drawing import PLANS
from tests.model.plan import Plan
from tests.model.run import run_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.model.bench import ModelBench
    from tests.model.world import Finding

# Timing differs from run to run: a shorter plan is kept if it fails in 2 of 3 runs.
_NEEDED, _RUNS = 2, 3


@dataclass(frozen=True)
class Failure:
    """A plan that failed, shrunk; ``kind`` is the finding that it was shrunk for."""

    seed: int | None
    kind: str
    findings: list[Finding]
    plan: Plan

    def __str__(self) -> str:
        """Return the findings as comments, and the plan, to be pasted into test_found.py."""
        told = "\n".join(f"# {finding.kind}: {finding.text}" for finding in self.findings)
        seed = "" if self.seed is None else f"# seed {self.seed}\n"
        return f"{seed}{told}\n{self.plan}"


@dataclass
class Report:
    """The numbers of a search, and its failures."""

    plans: int = 0
    steps: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def __add__(self, other: Report) -> Report:
        """Return the sum of two searches that ran at the same time."""
        return Report(
            self.plans + other.plans,
            self.steps + other.steps,
            max(self.seconds, other.seconds),
            self.kinds + other.kinds,
            self.failures + other.failures,
        )

    def __str__(self) -> str:
        """Return the numbers."""
        numbers = f"{self.plans} plans, {self.steps} steps, {self.seconds:.0f} s"
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.kinds.most_common())
        return f"{numbers}; failed: {kinds or 'none'}"


def draw(number: int) -> Plan:
    """Return the plan that hypothesis draws from this seed."""
    drawn = [Plan()]

    @seeded(number)
    @settings(
        max_examples=2,  # the first is always the simplest plan of all
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(PLANS)
    def keep(plan: Plan) -> None:
        drawn.append(plan)

    keep()
    return drawn[-1]


def search(
    bench: ModelBench,
    seeds: Iterable[int],
    *,
    shrink_seconds: float,
    tell: Callable[[Failure], None] = lambda _: None,
) -> Report:
    """Run the plans of the seeds; each that fails is shrunk for so many seconds at most."""
    report, began = Report(), time.monotonic()
    for number in seeds:
        plan = draw(number)
        failure = try_plan(bench, plan, number, shrink_seconds=shrink_seconds)
        report.plans += 1
        report.steps += len(plan.steps)
        report.seconds = time.monotonic() - began
        if failure is not None:
            report.kinds[failure.kind] += 1
            report.failures.append(failure)
            tell(failure)
    return report


def try_plan(
    bench: ModelBench, plan: Plan, number: int | None = None, *, shrink_seconds: float = 0.0
) -> Failure | None:
    """Run a plan; if it fails, shrink it for at most so many seconds."""
    findings = run_plan(plan, bench)
    if not findings:
        return None
    return _shrunk(bench, number, plan, findings, shrink_seconds)


def _shrunk(
    bench: ModelBench, number: int | None, plan: Plan, findings: list[Finding], seconds: float
) -> Failure:
    kind = findings[0].kind
    ends_at = time.monotonic() + seconds
    last = findings

    def fails(shorter: Plan) -> bool:
        nonlocal last
        failed = 0
        for run in range(_RUNS):
            if failed + _RUNS - run < _NEEDED or time.monotonic() > ends_at:
                return False
            found = run_plan(shorter, bench)
            if any(finding.kind == kind for finding in found):
                failed, told = failed + 1, found
                if failed == _NEEDED:
                    last = told
                    return True
        return False

    changed = True
    while changed and time.monotonic() < ends_at:
        changed = False
        for shorter in _shorter(plan):
            if fails(shorter):
                plan, changed = shorter, True
                break
    return Failure(number, kind, last, plan)


def _shorter(plan: Plan) -> Iterator[Plan]:
    """Yield simpler plans: without some steps, then with a field at its default."""
    steps, size = plan.steps, max(len(plan.steps) // 2, 1)
    while size:
        for at in range(0, len(steps), size):
            yield dataclasses.replace(plan, steps=steps[:at] + steps[at + size :])
        size //= 2
    yield from _simpler(plan, but=("steps", "held"))
    for at, step in enumerate(steps):
        for simple in _simpler(step):
            yield dataclasses.replace(plan, steps=(*steps[:at], simple, *steps[at + 1 :]))


def _simpler(thing: Any, but: tuple[str, ...] = ()) -> Iterator[Any]:
    """Yield copies, each with one more field at its default."""
    for each in dataclasses.fields(thing):
        has_default = each.default is not dataclasses.MISSING
        if has_default and each.name not in but and getattr(thing, each.name) != each.default:
            yield dataclasses.replace(thing, **{each.name: each.default})
