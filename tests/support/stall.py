"""A connection through the proxy that stalls at a chosen answer."""

from __future__ import annotations

import asyncio

from tests.support.proxy import Link, Swallow, TcpProxy


class ThenHold(Swallow):
    """Passes so many replies on, to requests that contain ``matching``; then the link stalls."""

    def __init__(self, link: Link, count: int, matching: bytes) -> None:
        super().__init__(count, matching, cut=False)
        self._link = link

    def takes(self, request: bytes) -> bool:
        """Keep nothing."""
        if super().takes(request) and self.done.is_set():
            # In the next turn of the loop: this reply itself is still passed on.
            asyncio.get_running_loop().call_soon(self._link.apply, "hold")
        return False


def hold_after_replies(
    proxy: TcpProxy, link: Link, count: int = 1, *, matching: bytes = b""
) -> Swallow:
    """Have the link stall once it has passed so many replies to such requests on."""
    order = ThenHold(link, count, matching)
    proxy.call(lambda: setattr(link, "swallow", order))
    return order
