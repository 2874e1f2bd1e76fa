"""The description of the wake server's routes."""

from __future__ import annotations

from aiohttp import web

from convolab_worker import Settings
from convolab_worker.server.console.redaction import Redaction
from convolab_worker.server.console.routes import Console
from convolab_worker.server.openapi import document


def test_every_route_of_the_console_is_described_and_no_other() -> None:
    app = web.Application()
    Console(Settings(), None, Redaction(), acts=False).add_to(app)

    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    }

    described = {
        (method, path)
        for path, methods in document()["paths"].items()
        if path.startswith("/api/")
        for method in methods
    }
    assert routes == described
