"""The example's contract: what its API loads, and what it has committed for TypeScript."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from convolab_worker.cli.main import main
from convolab_worker.handlers.contract.document import contract_of
from convolab_worker.handlers.contract.typescript import typescript
from examples.convolab.app import handlers
from examples.convolab.payloads import QUEUES

EXAMPLE = Path(__file__).parents[3] / "examples" / "convolab"
WORKER_ONLY = {"PIL", "espeakng_loader", "examples.convolab.app", "examples.convolab.handlers"}


def test_the_api_loads_nothing_that_only_handlers_need() -> None:
    """Neither Pillow nor eSpeak: it shares the declarations of the jobs, and no handler."""
    program = "import sys, examples.convolab.api; print(*sys.modules, sep='\\n')"
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=EXAMPLE.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {*said.stdout.split()}

    assert "examples.convolab.jobs" in loaded
    assert loaded & WORKER_ONLY == set()


def test_the_handlers_load_them() -> None:
    """Otherwise the test above would say nothing."""
    assert {*sys.modules} >= WORKER_ONLY


def test_what_is_committed_is_what_the_handlers_are() -> None:
    """After a change, `make schema` writes both files again."""
    document = contract_of(handlers, QUEUES).document
    committed = (EXAMPLE / "jobs.schema.json").read_text(encoding="utf-8")

    assert json.loads(committed) == document
    assert (EXAMPLE / "jobs.d.ts").read_text(encoding="utf-8") == typescript(document)


def test_the_committed_schema_is_compatible_with_the_handlers() -> None:
    """The check that CI would run for both sides; it would say what breaks."""
    queues = [flag for queue in QUEUES for flag in ("--queue", queue)]
    app = ["--app", "examples.convolab.app:handlers"]

    assert main(["schema", *app, *queues, "--check", str(EXAMPLE / "jobs.schema.json")]) == 0
