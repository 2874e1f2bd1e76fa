"""A proxy that reads the commands that pass through it, and fails at the n-th one of a name.

    what      before the command reaches the server or, with ``after``, in place of its reply
    cut       the connection is reset
    cut_all   every connection is reset
    silence   the connection stays open, and no byte passes on it any more
    stall     no byte passes on any connection for some seconds; then all of them do
    refuse    every connection is reset and, for some seconds, every new one
    error     the client gets an error reply, and the command never reaches the server

The name of EVAL and EVALSHA is the script's: ``moveToFinished``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from convolab_worker.bullmq.protocol.scripts import Script, counted_script, script
from tests.support.proxy import Link, Mode, TcpProxy
from tests.support.resp import Frames, arguments

What = Literal["cut", "cut_all", "silence", "stall", "refuse", "error"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """A failure at the ``nth`` command from now on that is called ``command``."""

    what: What
    command: str = ""
    after: bool = False
    nth: int = 1
    seconds: float = 0.0
    reply: str = "BUSY the test says so"


class ScriptedProxy(TcpProxy):
    """A proxy that fails as it is armed to; ``seen`` counts the commands by name."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._armed: list[tuple[Trouble, int]] = []
        self._calm_at = 0.0
        self.seen: Counter[str] = Counter()
        self.done: list[Trouble] = []
        self.done_at: list[float] = []

    def make_link(self, number: int, mode: Mode) -> Link:
        """Make a link that knows commands and replies."""
        return _CommandLink(self, number, mode)

    def arm(self, trouble: Trouble) -> None:
        """Fail when the command comes."""
        self.call(lambda: self._armed.append((trouble, trouble.nth)))

    def stall(self, seconds: float) -> None:
        """Keep all bytes for some seconds."""
        self.call(lambda: self.begin_stall(seconds))

    def refuse(self, seconds: float) -> None:
        """Reset every connection, and every new one for some seconds."""
        self.call(lambda: self.begin_refusal(seconds))

    def heal(self) -> None:
        """Be a network again; connections that fell silent are reset."""

        def heal() -> None:
            self._armed.clear()
            self._calm_at = 0.0
            for link in self._links.values():
                if link.mode == "drop":
                    link.reset()

        self.call(heal)
        self.resume()

    def left_open(self) -> list[str]:
        """Return the connections that their client has not closed, and the last command of each."""
        return self.call(
            lambda: [
                f"{number}: {link.last_command}"
                for number, link in self._links.items()
                if isinstance(link, _CommandLink) and link.open and not link.client_is_gone
            ]
        )

    # on the proxy's own loop

    def trouble_at(self, name: str) -> Trouble | None:
        """Return the trouble that this command is to meet; to be asked once for each command."""
        self.seen[name] += 1
        met: Trouble | None = None
        armed, self._armed = self._armed, []
        for trouble, left in armed:
            if trouble.command in ("", name):
                if left == 1 and met is None:
                    met = trouble
                    continue
                self._armed.append((trouble, max(left - 1, 1)))
            else:
                self._armed.append((trouble, left))
        if met is not None:
            self.done.append(met)
            self.done_at.append(time.monotonic())
        return met

    def begin_stall(self, seconds: float) -> None:
        """Keep all bytes for some seconds."""
        self._set_mode("hold")
        self._calm_in(seconds)

    def begin_refusal(self, seconds: float) -> None:
        """Reset every connection, and every new one for some seconds."""
        self._refusing = True
        self.reset_all()
        self._calm_in(seconds)

    def reset_all(self) -> None:
        """Reset every connection."""
        for link in self._links.values():
            link.reset()

    def _calm_in(self, seconds: float) -> None:
        """End stalls and refusals when the last of them is over."""
        self._calm_at = max(self._calm_at, self._loop.time() + seconds)
        self._loop.call_at(self._calm_at, self._calm)

    def _calm(self) -> None:
        if self._loop.time() >= self._calm_at:
            self._refusing = False
            self._set_mode("pass")


class _CommandLink(Link):
    """A connection whose commands and replies are told apart."""

    def __init__(self, proxy: ScriptedProxy, number: int, mode: Mode) -> None:
        super().__init__(proxy, number, mode)
        self._scripted = proxy
        self._commands = Frames()
        self._replies = Frames()
        self._asked: deque[Trouble | None] = deque()
        self.last_command = ""

    def pass_up(self, chunk: bytes) -> bytes:
        passed = b""
        for frame in self._commands.feed(chunk):
            self.last_command = command_name(frame)
            trouble = self._scripted.trouble_at(self.last_command)
            if trouble is not None and trouble.what == "error":
                self._asked.append(trouble)
                self._refuse_commands()
                continue
            if trouble is not None and not trouble.after:
                self._writers[1].write(passed)
                passed = b""
                self._begin(trouble)
                if not self.open:
                    return b""
                trouble = None
            self._asked.append(trouble)
            passed += frame
        return passed

    def pass_down(self, chunk: bytes) -> bytes:
        passed = b""
        for frame in self._replies.feed(chunk):
            trouble = self._asked.popleft() if self._asked else None
            if trouble is not None:
                self._writers[0].write(passed)
                passed = b""
                self._begin(trouble)
                if not self.open:
                    return b""
            passed += frame + self._refusals()
        return passed

    def _refusals(self) -> bytes:
        """The replies to commands that never reached the server, as far as it is their turn."""
        replies = b""
        while self._asked and (trouble := self._asked[0]) is not None and trouble.what == "error":
            self._asked.popleft()
            replies += f"-{trouble.reply}\r\n".encode()
        return replies

    def _refuse_commands(self) -> None:
        if replies := self._refusals():
            self._writers[0].write(replies)

    def _begin(self, trouble: Trouble) -> None:
        if trouble.what == "cut":
            self.reset()
        elif trouble.what == "cut_all":
            self._scripted.reset_all()
        elif trouble.what == "silence":
            self.apply("drop")
        elif trouble.what == "stall":
            self._scripted.begin_stall(trouble.seconds)
        else:
            self._scripted.begin_refusal(trouble.seconds)


def command_name(command: bytes) -> str:
    """Return a command's name, in upper case, or the name of the script that it runs."""
    words = arguments(command)
    name = words[0].decode("ascii", "replace").upper()
    if name == "EVALSHA":
        return SCRIPTS.get(words[1].decode("ascii", "replace"), name)
    if name == "EVAL":
        return SCRIPTS.get(_sha(words[1]), name)
    return name


def script_texts() -> list[str]:
    """Return the texts of bullmq's scripts and of our own, those that count their commands too."""
    return [each.text for each in _scripts()]


def _scripts() -> list[Script]:
    names: set[str] = set()
    for package in ("bullmq", "convolab_worker"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        for place in spec.submodule_search_locations or ():
            names |= {path.stem.partition("-")[0] for path in Path(place).rglob("*.lua")}
    return [find(name) for name in sorted(names) for find in (script, counted_script)]


def _sha(text: bytes) -> str:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()


SCRIPTS = {each.sha: each.name for each in _scripts()}
"""The names of bullmq's scripts, and of our own, by their digests."""
