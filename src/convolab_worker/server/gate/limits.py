"""How many requests a client may send, and what counts as one client. Pure."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

# The rate limit forgets the client that was quiet for longest when there are more than this many.
_MAX_CLIENTS = 10_000
# A client that was quiet may send so many seconds' worth of requests at once.
_BURST_SECONDS = 2.0
# One customer of a provider has at least this many bits of an IPv6 address to choose from.
_IPV6_PREFIX = 64


class _Bucket(Struct):
    tokens: float
    filled_at: float


class RateLimit:
    """Allows each client ``rate`` requests a second, and a burst of twice as many after a pause.

    A token bucket for each client; the time is an argument.
    """

    def __init__(self, rate: float, *, max_clients: int = _MAX_CLIENTS) -> None:
        self._rate = rate
        self._burst = max(rate * _BURST_SECONDS, 1.0)
        self._max_clients = max_clients
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def admit(self, client: str, now: float) -> float:
        """Return 0 if the client may send a request ``now``, else the seconds until it may."""
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = _Bucket(self._burst, now)
            if len(self._buckets) > self._max_clients:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(client)
        elapsed = max(now - bucket.filled_at, 0.0)
        bucket.tokens = min(bucket.tokens + elapsed * self._rate, self._burst)
        bucket.filled_at = now
        if bucket.tokens >= 1.0:
            bucket.tokens -= 1.0
            return 0.0
        return (1.0 - bucket.tokens) / self._rate


def client_address(peer: str, forwarded_for: Sequence[str], *, behind_front_end: bool) -> str:
    """Return the name of the client that a request counts for, given its X-Forwarded-For lines.

    Cloud Run's front end appends the address that it saw, at the end of the last line; the client
    itself may have written all that stands before. Elsewhere anybody may have written all of it. If
    it is not an address, the peer's counts, so that names are short and can't be made up.
    """
    if behind_front_end and forwarded_for:
        given = _address(forwarded_for[-1].rpartition(",")[2].strip())
        if given is not None:
            return _name(given)
    address = _address(peer)
    return peer if address is None else _name(address)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _name(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), _IPV6_PREFIX), strict=False))
