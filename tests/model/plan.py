"""A plan: one worker's settings, and the steps of what happens to it, in order. Pure data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.model.world import World

# Harm that is shorter than this in all has never a lock run out that is kept as it should be.
_HARMLESS_SECONDS = 0.4
# Where the way is long, to connect again, to ask and to try again takes so many round trips.
ROUND_TRIPS = 10


class Short:
    """Says of a dataclass only what differs from its defaults: what can be pasted into a test."""

    def __repr__(self) -> str:
        """Return the call that makes it."""
        fields: Any = dataclasses.fields(self)  # type: ignore[arg-type]
        given = [(field.name, getattr(self, field.name), field) for field in fields]
        told = [f"{name}={value!r}" for name, value, field in given if value != field.default]
        return f"{type(self).__name__}({', '.join(told)})"


class Step(Short):
    """One thing that happens."""

    @property
    def harm(self) -> float:
        """For how many seconds it may keep a worker from its locks."""
        return 0.0

    @property
    def is_rough(self) -> bool:
        """Whether jobs may run twice by it, or vanish, and nobody is to blame."""
        return False

    @property
    def hides_jobs(self) -> bool:
        """Whether a worker can't hear by itself of all jobs after it: it is waked in the end."""
        return False

    async def take(self, world: World) -> None:
        """Let it happen."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Plan(Short):
    """One worker after the other with these settings, and what happens to them."""

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
        """Whether no job may run twice, or be found without a lock, whatever the timing."""
        harm = sum(step.harm for step in self.steps) + ROUND_TRIPS * self.lag
        return harm <= _HARMLESS_SECONDS and not any(step.is_rough for step in self.steps)

    @property
    def hides_jobs(self) -> bool:
        """Whether a worker that is always at work has to be waked to find all jobs."""
        return self.sleep_after is not None or any(step.hides_jobs for step in self.steps)

    def __str__(self) -> str:
        """Return the call that makes it, a line for each step."""
        settings = repr(dataclasses.replace(self, steps=()))[len("Plan(") : -1]
        steps = "".join(f"        {step!r},\n" for step in self.steps)
        return f"Plan(\n    {settings}{', ' if settings else ''}steps=(\n{steps}    ),\n)"
