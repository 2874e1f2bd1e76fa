"""Contender: Dramatiq with Redis, at its defaults; its worker is its own command line."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from examples.benchmarks.recovering import part

dramatiq.set_broker(RedisBroker(url=part.url()))
hold = dramatiq.actor(part.hold, actor_name="hold", time_limit=int(part.HOURS * 1000))


def _work() -> None:
    part.become("dramatiq", "--processes=1", "examples.benchmarks.recovering.dramatiq")


if __name__ == "__main__":
    part.main(work=_work, add=hold.send)
