"""A script that has lines spoken, and prints how long each takes.

python -m examples.clients.script "Guten Tag" "Auf Wiedersehen"
"""

from __future__ import annotations

import sys

from convolab_worker import SyncJobClient
from examples.clients.jobs import SPEAK, Line


def main() -> None:
    """Add a job for each argument, and wait for all of them."""
    lines = [Line(text) for text in sys.argv[1:]]
    with SyncJobClient(queues=("speeches",)) as jobs:
        ids = jobs.enqueue_many(SPEAK, lines)
        for line, job_id in zip(lines, ids, strict=True):
            speech = jobs.result(job_id, timeout=60)
            sys.stdout.write(f"{speech.seconds:.1f} s  {line.text}\n")


if __name__ == "__main__":
    main()
