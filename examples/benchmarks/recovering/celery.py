"""Contender: Celery with Redis, acknowledging late as its guide says for jobs not to be lost."""

from __future__ import annotations

from celery import Celery

from examples.benchmarks.recovering import part

app = Celery("recovery", broker=part.url())
hold = app.task(part.hold, name="hold", acks_late=True, reject_on_worker_lost=True)


def _work() -> None:
    part.become("celery", "-A", "examples.benchmarks.recovering.celery", "worker", "-c1")


if __name__ == "__main__":
    part.main(work=_work, add=hold.delay)
