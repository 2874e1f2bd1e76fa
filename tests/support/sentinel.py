"""A Sentinel that says what a test tells it, at once: real ones agree after a second or two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.speaking import RedisSpeaker

if TYPE_CHECKING:
    import ssl


class ToldSentinel(RedisSpeaker):
    """Names the primary at ``port`` on loopback, as of ``config_epoch``."""

    def __init__(
        self, port: int, config_epoch: int = 1, *, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(tls=tls)
        self.primary = port
        self.config_epoch = config_epoch
        self.asked = 0
        self.is_silent = False

    @property
    def node(self) -> str:
        """Where it listens, as an address lists it."""
        return f"127.0.0.1:{self.port}"

    def name(self, port: int) -> None:
        """Name another primary from now on."""
        self.primary = port
        self.config_epoch += 1

    def answer(self, command: list[bytes]) -> bytes:
        if self.is_silent:
            return b""
        if command[1] == b"MASTER":
            return _packed("name", "told", "config-epoch", str(self.config_epoch))
        self.asked += 1
        return _packed("127.0.0.1", str(self.primary))


def _packed(*words: str) -> bytes:
    parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
    return f"*{len(parts)}\r\n{''.join(parts)}".encode()
