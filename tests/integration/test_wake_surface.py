"""The wake server's surface as its OpenAPI page describes it, under requests of all kinds."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession, ClientTimeout
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from convolab_worker import HandlerRegistry, Job, Settings
from convolab_worker.server.openapi import document
from tests.support.serving import serving

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW")
HEADER_NAMES = (
    "Accept",
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Cookie",
    "Expect",
    "If-None-Match",
    "Range",
    "X-Forwarded-For",
)
PRINTABLE = st.text(string.ascii_letters + string.digits + string.punctuation + " ", max_size=40)
PATHS = st.one_of(
    st.sampled_from(sorted(document()["paths"])),
    st.text(max_size=20).map(lambda text: "/" + quote(text, safe="/%")),
)
QUERIES = st.one_of(
    st.just(""),
    st.sampled_from(
        ["hold=1", "hold=1s", "hold=1.5", "hold=1m&hold=2m", "hold=1e3", "hold=%D9%A1"]
    ),
    st.text(max_size=20).map(lambda text: "hold=" + quote(text)),
    st.text(max_size=20).map(quote),
)
REQUESTS = st.tuples(
    st.sampled_from(METHODS),
    PATHS,
    QUERIES,
    st.dictionaries(st.sampled_from(HEADER_NAMES), PRINTABLE, max_size=4),
    st.one_of(st.none(), st.binary(max_size=300)),
)
PATIENCE = ClientTimeout(total=20)


class Surface:
    """A server that runs in a loop of its own, for tests that are called many times."""

    def __init__(self, redis_url: str) -> None:
        self.loop = asyncio.new_event_loop()
        handlers = HandlerRegistry()

        @handlers.audio("work")
        async def work(_: Job[dict[str, Any]]) -> None:
            """Do nothing."""

        settings = Settings(redis_url=redis_url, queues=("surface",), wake_rate=1_000_000)
        self._serving = serving(handlers, settings)
        _, _, self.session = self.loop.run_until_complete(self._serving.__aenter__())
        base = self.session._base_url  # noqa: SLF001 - what the session was made with
        assert base is not None
        assert base.port is not None
        self.base, self.port = str(base).rstrip("/"), base.port

    def close(self) -> None:
        """End it."""
        self.loop.run_until_complete(self._serving.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def surface(server_url: str) -> Iterator[Surface]:
    """One server for all requests of this module."""
    surface = Surface(server_url)
    yield surface
    surface.close()


FUZZ = hypothesis_settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(request=REQUESTS)
def test_every_request_is_answered_as_the_page_says(
    surface: Surface, request: tuple[str, str, str, dict[str, str], bytes | None]
) -> None:
    """Whatever is asked: an answer in time, no 500, JSON where it is an error."""
    method, path, query, headers, body = request

    async def ask() -> tuple[int, str, bytes]:
        url = f"{surface.base}{path}" + (f"?{query}" if query else "")
        async with (
            ClientSession(timeout=PATIENCE) as session,
            session.request(method, url, headers=headers, data=body) as answer,
        ):
            streams = answer.content_type == "text/event-stream"  # that one never ends
            content = await answer.content.readline() if streams else await answer.read()
            return answer.status, answer.content_type, content

    headers = {name: value.strip() for name, value in headers.items()}
    status, content_type, content = surface.loop.run_until_complete(ask())
    described = document()["paths"].get(path, {}).get(method.lower())

    assert status < 500
    if described is not None:
        assert str(status) in described["responses"]
    if status >= 400 and content:
        assert content_type == "application/json"


def test_the_page_describes_every_route_and_no_other(surface: Surface) -> None:
    """Each operation of the page is answered, and what is not on it is 404 or 405."""

    async def ask(method: str, path: str) -> int:
        async with surface.session.request(method, path) as answer:
            return answer.status

    for path, operations in document()["paths"].items():
        for method in ("get", "post", "put", "delete"):
            status = surface.loop.run_until_complete(ask(method.upper(), path))
            if method in operations:
                assert str(status) in operations[method]["responses"], (method, path)
            else:
                assert status == 405, (method, path)
