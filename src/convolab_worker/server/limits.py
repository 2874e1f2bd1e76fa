"""How often a client may ask: a token bucket for each, pure over explicit time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

# Clients that are remembered: the one that was quiet for longest is forgotten first.
_MOST_CLIENTS = 10_000
# A client that was quiet may ask so many seconds' worth at once.
_BURST_SECONDS = 2.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimit:
    """Gives each client ``rate`` requests a second, and twice as many after a pause."""

    def __init__(self, rate: float, *, most_clients: int = _MOST_CLIENTS) -> None:
        """Begin with every bucket full."""
        self._rate = rate
        self._burst = max(rate * _BURST_SECONDS, 1.0)
        self._most_clients = most_clients
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def admit(self, client: str, now: float) -> float:
        """0 if the client may ask ``now`` (seconds); otherwise in how many seconds it may."""
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = _Bucket(self._burst, now)
            if len(self._buckets) > self._most_clients:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(client)
        bucket.tokens = min(bucket.tokens + max(now - bucket.at, 0.0) * self._rate, self._burst)
        bucket.at = now
        if bucket.tokens >= 1.0:
            bucket.tokens -= 1.0
            return 0.0
        return (1.0 - bucket.tokens) / self._rate


def client_of(peer: str, forwarded_for: str | None, *, behind_front_end: bool) -> str:
    """Whom to count a request for.

    Cloud Run's front end appends the address that it saw to X-Forwarded-For; what stands before it
    is the client's own claim. Elsewhere the header is anybody's claim, and the peer counts.
    """
    if behind_front_end and forwarded_for:
        return forwarded_for.rpartition(",")[2].strip() or peer
    return peer
