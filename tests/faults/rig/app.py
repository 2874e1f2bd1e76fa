"""Handlers of the rig: work that takes the time it is told, each run noted in the ledger."""

from __future__ import annotations

import os
from typing import Any

from convolab_worker import HandlerRegistry, Job
from convolab_worker.integrations.aws_lambda import lambda_handler
from tests.faults.harness import LEDGER_NAME, LEDGER_URL, Ledger, lasting
from tests.faults.rig.day import RECIPE
from tests.support.markdown import ROOT, blocks

handlers = HandlerRegistry()
ledger = Ledger(os.environ[LEDGER_URL], os.environ[LEDGER_NAME])


@handlers.audio("work")
async def work(job: Job[Any]) -> str:
    """Take a while, and fail the first attempts if told to."""
    ledger.start(job.id, attempt=job.attempt)
    await lasting(job.data["seconds"])
    if job.attempt <= job.data.get("failures", 0):
        msg = f"attempt {job.attempt} fails, as it was told to"
        raise ValueError(msg)
    ledger.end(job.id)
    return job.id


def _include_recipe(file: str) -> None:
    page = blocks(ROOT / "docs" / "platforms.md")
    names: dict[str, Any] = {}
    (block,) = [block for block in page if block.file == file]
    exec(compile(block.text, file, "exec"), names)  # noqa: S102 - the page's own code
    handlers.include(names["handlers"])


if RECIPE in os.environ:
    _include_recipe(os.environ[RECIPE])

if "AWS_LAMBDA_RUNTIME_API" in os.environ:
    function = lambda_handler(handlers, reserve=0.5, shutdown_grace=1.0)
