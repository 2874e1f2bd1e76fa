"""The recipe for Sentry in docs/handlers.md, on the transport of sentry-sdk's own making."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from convolab_worker import HandlerRegistry, Job
from convolab_worker.testing import run_handler
from tests.support.markdown import ROOT, blocks

pytestmark = pytest.mark.asyncio


class Kept(Transport):
    """A transport that keeps what would have been sent."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        """Keep its event."""
        event = envelope.get_event()
        if event is not None:
            self.events.append(dict(event))


@pytest.fixture
def sent() -> Iterator[list[dict[str, Any]]]:
    """What the SDK sends during a test."""
    kept = Kept()
    sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", transport=kept, default_integrations=False)
    yield kept.events
    sentry_sdk.init(dsn="")


async def test_a_job_that_failed_for_good_is_an_event(sent: list[dict[str, Any]]) -> None:
    """With its exception and names; an attempt that is tried again is none."""
    recipe = next(
        block for block in blocks(ROOT / "docs" / "handlers.md") if block.file == "sentry.py"
    )
    names: dict[str, Any] = {}
    exec(compile(recipe.text, "sentry.py", "exec"), names)  # noqa: S102 - the page's own code
    handlers: HandlerRegistry = names["handlers"]

    @handlers.audio("fails")
    async def fails(_: Job[Any]) -> None:
        msg = "no voice"
        raise ValueError(msg)

    await run_handler(handlers, "fails", attempt=1, attempts=2, raises=False)
    before = len(sent)
    await run_handler(handlers, "fails", attempt=2, attempts=2, job_id="7", raises=False)

    (event,) = sent
    (exception,) = event["exception"]["values"]
    assert before == 0
    assert (exception["type"], exception["value"]) == ("ValueError", "no voice")
    assert (event["tags"]["job.name"], event["contexts"]["job"]["id"]) == ("fails", "7")
