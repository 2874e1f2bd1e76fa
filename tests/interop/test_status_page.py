"""The status page in a real browser: what a person sees, by keyboard, on a phone, in the dark."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from convolab_worker import HandlerRegistry, Job, Settings
from tests.support.browser import chromium
from tests.support.node import NodeProcess, NodeScripts
from tests.support.serving import serving

pytestmark = pytest.mark.asyncio
PATIENCE = 60.0


class Browser:
    """A page that is open."""

    def __init__(self, node: NodeProcess) -> None:
        """Drive ``node``'s browser."""
        self.ask = node.ask

    async def shows(self, selector: str, text: str = "") -> str:
        """The text of what is there, once it is."""
        told: str = await self.ask("waitFor", selector=selector, text=text)
        return told


def address(session: ClientSession) -> str:
    """Where the server is."""
    base = session._base_url  # noqa: SLF001 - the browser needs what the session has
    assert base is not None
    return str(base)


def staged(gate: asyncio.Event) -> HandlerRegistry:
    """A handler that waits at the gate, and one that fails with a reason full of markup."""
    handlers = HandlerRegistry()

    @handlers.audio("speak")
    async def speak(job: Job[dict[str, Any]]) -> None:
        await job.progress(40)
        await gate.wait()

    @handlers.image("draw")
    async def draw(_job: Job[dict[str, Any]]) -> None:
        msg = "<b>no paint</b><script>document.title='owned'</script>"
        raise ValueError(msg)

    return handlers


@asynccontextmanager
async def browsing(
    node: NodeScripts, session: ClientSession, folder: Path
) -> AsyncIterator[Browser]:
    """A browser for the server of that session."""
    arguments = (address(session), chromium(), str(folder / "profile"))
    async with await node.start("console_browser.mjs", *arguments) as process:
        assert (await process.receive(timeout=PATIENCE))["ok"] == "ready"
        yield Browser(process)


async def test_a_person_unlocks_it_and_follows_the_jobs(
    node: NodeScripts, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Token, running job, outcome with its reason as text, filter, depths; nothing goes wrong."""
    chromium()
    gate, settings = asyncio.Event(), make_settings(wake_token="a-token", command_budget=5_000)
    async with (
        serving(staged(gate), settings) as (_, client, session),
        browsing(node, session, tmp_path) as page,
    ):
        await page.ask("open", width=1200, scheme="light")
        await page.ask("unlock", token="wrong")
        await page.shows("#refused:not([hidden])")
        await page.ask("unlock", token="a-token")
        await page.shows("#state", "waiting")

        await client.enqueue("speak", job_id="épisode-🎧")
        assert "40 %" in await page.shows("#jobs tbody tr", "épisode-🎧")
        await page.shows("#state", "working")
        await client.enqueue("draw")
        assert "<b>no paint</b>" in await page.shows("#recent tbody tr", "failed")
        gate.set()
        await page.shows("#recent tbody tr", "completed")
        await page.shows("#jobs-none:not([hidden])")
        await page.ask("press", name="failed or retried")
        assert len(await page.ask("rows", table="#recent")) == 1
        assert (await page.ask("look", picture=str(tmp_path / "page.png")))["injected"] == 0
        assert await page.ask("faults") == []


async def test_it_is_readable_on_a_phone_in_the_dark_and_named_for_screen_readers(
    node: NodeScripts, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """No side-scrolling at 360 pixels, colours that follow the system, a name for every control."""
    chromium()
    async with (
        serving(staged(asyncio.Event()), make_settings()) as (_, client, session),
        browsing(node, session, tmp_path) as page,
    ):
        await client.enqueue("draw", job_id="a-very-long-id-" * 8)
        await client.enqueue("speak")
        looks = {}
        for scheme, width in (("light", 1200), ("dark", 360)):
            await page.ask("open", width=width, scheme=scheme)
            await page.shows("#recent tbody tr", "failed")
            await page.shows("#jobs tbody tr", "40 %")
            looks[scheme] = await page.ask("look", picture=str(tmp_path / f"{scheme}.png"))

    assert looks["light"]["unnamed"] == looks["dark"]["unnamed"] == []
    assert looks["dark"]["overflow"] == 0
    assert looks["light"]["ground"] != looks["dark"]["ground"]


async def test_it_says_so_when_the_worker_is_gone_and_comes_back_with_it(
    node: NodeScripts, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """A page that stays open over a restart goes on by itself."""
    program = chromium()
    handlers = HandlerRegistry()
    handlers.audio("speak")(lambda _job: None)
    async with serving(handlers, make_settings()) as (_, _, session):
        url = address(session)
        process = await node.start("console_browser.mjs", url, program, str(tmp_path / "profile"))
        assert (await process.receive(timeout=PATIENCE))["ok"] == "ready"
        page = Browser(process)
        await page.ask("open", width=1200, scheme="light")
        await page.shows("#state", "waiting")
        await page.shows("#link", "Live.")

    async with process:
        await page.shows("#link", "No connection to the worker")
        port = int(url.rstrip("/").rpartition(":")[2])
        async with serving(handlers, make_settings(), port=port):
            await page.shows("#link", "Live.")
