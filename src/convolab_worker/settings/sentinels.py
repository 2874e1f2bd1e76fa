"""The part of a Redis address that names Sentinels."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """The Sentinels that know where the primary called ``master`` is, and how to talk to them.

    ``nodes`` are their hosts and ports. Their credentials are their own; ``tls`` says whether they
    speak TLS, with the options of the address.
    """

    nodes: tuple[tuple[str, int], ...]
    master: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False

    def __str__(self) -> str:
        asked = ", ".join(f"{host}:{port}" for host, port in self.nodes)
        return f"the primary {self.master} of the Sentinels {asked}"
