"""A plan: the settings of its workers, and the steps that happen to them, in order. Pure data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.model.world import World

# Outages that are shorter than this in all can't have cost a worker a lock.
_HARMLESS_SECONDS = 0.4
# A worker that lost a connection recovers within so many round trips.
ROUND_TRIPS = 10


class Short:
    """A dataclass whose repr leaves out the fields that have their defaults."""

    def __repr__(self) -> str:
        """Return the call that makes it, to be pasted into a test."""
        fields: Any = dataclasses.fields(self)  # type: ignore[arg-type]
        given = [(field.name, getattr(self, field.name), field) for field in fields]
        told = [f"{name}={value!r}" for name, value, field in given if value != field.default]
        return f"{type(self).__name__}({', '.join(told)})"


class Step(Short):
    """One thing that happens."""

    @property
    def harm(self) -> float:
        """For how many seconds it may keep a worker from renewing its locks."""
        return 0.0

    @property
    def is_rough(self) -> bool:
        """Whether jobs may run twice, or vanish, because of it."""
        return False

    @property
    def hides_jobs(self) -> bool:
        """Whether no marker announces some jobs after it, so that the worker has to be woken."""
        return False

    async def take(self, world: World) -> None:
        """Take the step."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Plan(Short):
    """The settings of workers that run one after the other, and the steps."""

    steps: tuple[Step, ...] = ()
    held: bool = False
    concurrency: int = 1
    queues: int = 1
    idle: float = 30.0
    sleep_after: float | None = None
    command_timeout: float = 0.5
    rate_limit: str | None = None
    lag: float = 0.0

    @property
    def is_gentle(self) -> bool:
        """Whether no lock can run out, so that no job may run twice or be found stalled."""
        harm = sum(step.harm for step in self.steps) + ROUND_TRIPS * self.lag
        return harm <= _HARMLESS_SECONDS and not any(step.is_rough for step in self.steps)

    @property
    def hides_jobs(self) -> bool:
        """Whether a worker has to be woken in the end to find all jobs."""
        return self.sleep_after is not None or any(step.hides_jobs for step in self.steps)

    def __str__(self) -> str:
        """Return the call that makes it, a line for each step."""
        settings = repr(dataclasses.replace(self, steps=()))[len("Plan(") : -1]
        steps = "".join(f"        {step!r},\n" for step in self.steps)
        return f"Plan(\n    {settings}{', ' if settings else ''}steps=(\n{steps}    ),\n)"
