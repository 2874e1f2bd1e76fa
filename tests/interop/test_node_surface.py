"""What Node's worker and job have: docs/bullmq.md names each, with what to do here instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.interop.session import HERE

TYPES = HERE / "node_modules/bullmq/dist/esm"
DOCS = Path(__file__).parents[2] / "docs/bullmq.md"
# Of the library itself, which no application calls.
INTERNAL = {
    "constructor", "create", "createBulk", "fromJSON", "fromId", "optsFromJSON", "toJSON", "asJSON",
    "asJSONSandbox", "addJob", "addJobLog", "toFlowEntry", "processJob", "jobScheduler", "emit",
    "removeListener", "connection", "prefix",
}  # fmt: skip
OPTION = re.compile(r"^    (\w+)\??: ", re.MULTILINE)
METHOD = re.compile(r"^    (?:static |get |set )?(\w+)(?:<[^>]*>)?\(", re.MULTILINE)
EVENT = re.compile(r"^    '?(\w+)'?: \(", re.MULTILINE)


@pytest.mark.parametrize(
    ("of", "what"),
    [
        ("interfaces/worker-options.d.ts", OPTION),
        ("interfaces/advanced-options.d.ts", OPTION),
        ("classes/worker.d.ts", METHOD),
        ("classes/worker.d.ts", EVENT),
        ("classes/job.d.ts", METHOD),
    ],
)
@pytest.mark.usefixtures("node")
def test_everything_that_nodes_worker_has_is_named(of: str, what: re.Pattern[str]) -> None:
    """In the version that the tests use: an update of BullMQ shows here what it brought."""
    without_comments = re.sub(r"/\*.*?\*/", "", (TYPES / of).read_text("utf-8"), flags=re.DOTALL)
    names = {*what.findall(without_comments)} - INTERNAL
    docs = DOCS.read_text("utf-8")

    assert names
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", docs)) == []
