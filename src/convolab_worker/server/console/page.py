"""The console's page: one HTML document, put together from the files in ``page/``.

It holds no data, and asks for the token where one is needed. It is read when the first browser asks
for it: most workers are never looked at, and it would cost each start a megabyte and 2 ms.
"""

from __future__ import annotations

import base64
import functools
import hashlib

from aiohttp import web

# In the order in which they need each other.
_SCRIPTS = (
    "base", "chart", "live", "looks", "queues", "jobs", "job", "catalog", "start",
)  # fmt: skip


def page(status: int = 200) -> web.Response:
    """Return the page; a browser without a token gets it too, with ``status`` 401."""
    html, policy = _document()
    headers = {"Content-Security-Policy": policy}
    return web.Response(text=html, status=status, content_type="text/html", headers=headers)


@functools.cache
def _document() -> tuple[str, str]:
    """Return the page and its policy: its own script and style, by their hashes, and no other."""
    from importlib.resources import files

    folder = files("convolab_worker.server.console").joinpath("page")
    html = folder.joinpath("index.html").read_text("utf-8")
    scripts = [folder.joinpath(f"{name}.js").read_text("utf-8") for name in _SCRIPTS]
    style = folder.joinpath("style.css").read_text("utf-8")
    parts = {"script": "\n" + "\n".join(scripts), "style": "\n" + style}
    for tag, text in parts.items():
        html = html.replace(f"<{tag}></{tag}>", f"<{tag}>{text}</{tag}>")
    policy = (
        f"default-src 'none'; script-src {_hash(parts['script'])}; "
        f"style-src {_hash(parts['style'])}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
