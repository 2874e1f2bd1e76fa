"""When Python looks for garbage: seldom in a start, as before it when a worker works."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import gc, sys
usual = gc.get_threshold()
passes = []
from convolab_worker.__main__ import run
gc.callbacks.append(lambda phase, _: passes.append(phase))
sys.argv = ['convolab-worker', 'run', '--app', 'jobs:handlers']
run()
"""
# In the place of the worker, what it would find.
APP = """
import __main__, gc
from convolab_worker import HandlerRegistry
from convolab_worker.cli.process import process

handlers = HandlerRegistry()
@handlers.audio("noop")
async def noop(job): ...

run_in_loop = process.run_in_loop

def judge(worker):
    worker.close()
    seldom, expected = gc.get_threshold(), __main__.usual
    {application}
    async def look(): return gc.get_threshold(), gc.get_freeze_count()
    found, frozen = run_in_loop(look())
    assert seldom[0] > __main__.usual[0], seldom
    assert found == expected, found
    assert frozen > 10_000, frozen
    print(__main__.passes.count("start"))
    return 0

process.run_in_loop = judge
"""


def passes_of_a_start(folder: Path, application: str = "") -> int:
    (folder / "jobs.py").write_text(APP.format(application=application))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def test_a_start_looks_for_garbage_a_few_times(tmp_path: Path) -> None:
    """It was fifty times, a tenth of the start, when Python looked as often as it does."""
    assert passes_of_a_start(tmp_path) <= 3


def test_what_the_application_has_set_stays(tmp_path: Path) -> None:
    assert passes_of_a_start(tmp_path, "gc.set_threshold(999); expected = gc.get_threshold()")
