"""Whether a page of another site has sent a request. Pure.

A browser sends what a foreign page asks it to, to loopback too. Where no token is asked for, its
headers are all that tells such a request from one of the server's own page: ``Sec-Fetch-Site`` and
``Origin`` name the page, and ``Host`` has the page's own name where that name was made to resolve
to this machine (DNS rebinding).
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

_OWN_SITES = frozenset({"same-origin", "none"})


def foreign_header(headers: CIMultiDictProxy[str], *, is_local: bool) -> str | None:
    """Return the name of the header that shows a foreign page; None if none does.

    ``is_local``: the server listens on loopback, so that only names of loopback are its own.
    Elsewhere it may have any name, and a proxy may have changed ``Host``: there what the browser
    says of the site counts for more than a comparison of ``Origin`` with ``Host``.
    """
    hosts = headers.getall("Host", [])
    if is_local and not all(is_loopback(host) for host in hosts):
        return "Host"
    sites = headers.getall("Sec-Fetch-Site", [])
    if not _OWN_SITES.issuperset(sites):
        return "Sec-Fetch-Site"
    origins = headers.getall("Origin", [])
    if (is_local or not sites) and not all(_is_of(origin, hosts) for origin in origins):
        return "Origin"
    return None


def is_loopback(host: str) -> bool:
    """Return whether a ``Host`` header, with or without a port, names the machine itself."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _is_of(origin: str, hosts: list[str]) -> bool:
    scheme, _, authority = origin.partition("://")
    return scheme in {"http", "https"} and [authority.lower()] == [host.lower() for host in hosts]
