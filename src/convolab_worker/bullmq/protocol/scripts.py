"""The Lua scripts: BullMQ's, read from the installed bullmq package, and our own in ``lua/``.

BullMQ's scripts are the protocol: what they do to Redis is what Node's QueueEvents, flows and
dashboards see. Only the package's files are used; importing its Python would cost 150 ms at every
start. ``tests/integration/bullmq/test_conformance.py`` pins each script by name and keys.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re

from msgspec import Struct, field

from convolab_worker.bullmq.protocol.packing import pack_head
from convolab_worker.errors import ConfigurationError

# hashlib loads all that OpenSSL has, which is 0.6 MB and 2 ms of a start: Python's own ``random``
# does without it in the same way.
try:
    from _sha1 import sha1  # type: ignore[import-not-found]
except ImportError:  # a Python that was built without it
    from hashlib import sha1

_OWN_FOLDER = f"{os.path.dirname(os.path.dirname(__file__))}/lua"  # noqa: PTH120 - see _scripts_in
# BullMQ's scripts before which ours of the same name stand, by the SHA-1 of the text that ours was
# written for: ours do the ordinary in fewer commands and leave the rest to BullMQ's. Of another
# text ours can't know what is ordinary, and BullMQ's runs alone.
_SHORTENED = {
    "moveToActive": "d96ca626f1ea141b44a856b312fc636d99aa9ea9",
    "moveToFinished": "69666e69dd5621df59067a03de685e55a486560d",
}
_HEAD = re.compile(r"\A--\[\[.*?\]\]\n", re.DOTALL)
_INCLUDE = re.compile(r'^--- @include "(\w+)"$', re.MULTILINE)


class Script(Struct, frozen=True):
    """A script: the name and the number of KEYS in its file's name, and its text."""

    name: str
    keys: int
    text: str
    sha: str
    heads: dict[int, bytes] = field(default_factory=dict)

    def head(self, arguments: int) -> bytes:
        """Returns the beginning of a call with so many ARGV, as Redis reads it."""
        known = self.heads.get(arguments)
        if known is None:
            known = self.heads[arguments] = pack_head(self.sha, self.keys, arguments)
        return known


@functools.cache
def script(name: str) -> Script:
    """Returns our own script of that name, or else BullMQ's, such as ``retryJob``.

    A line ``--- @include "NAME"`` of an own script stands for the text of the script NAME; of its
    own name, for BullMQ's. Raises ConfigurationError if the installed bullmq has no such script.
    """
    own = _scripts_in(_OWN_FOLDER).get(name)
    if own is None or (name in _SHORTENED and not _is_shortened(name)):
        return bullmqs_script(name)

    def included(line: re.Match[str]) -> str:
        return (bullmqs_script(name) if line[1] == name else script(line[1])).text

    return _script(name, own, _INCLUDE.sub(included, _HEAD.sub("", _read(own))))


@functools.cache
def counted_script(name: str) -> Script:
    """Returns ``script(name)`` in ``countCommands``.

    It answers how many commands it has run, and what the script answers. Raises as ``script`` does.
    """
    found = script(name)
    text = found.text
    if name not in _SHORTENED or not _is_shortened(name):  # ours count their own commands
        text = script("countCalls").text + text
    return _made(name, found.keys, script("countCommands").text.replace("--- @script", text))


def _is_shortened(name: str) -> bool:
    return bullmqs_script(name).sha == _SHORTENED[name]


@functools.cache
def bullmqs_script(name: str) -> Script:
    """Returns BullMQ's script of that name. Raises ConfigurationError if bullmq has none."""
    file = _scripts_in(_bullmqs_folder()).get(name)
    if file is None:
        msg = f"bullmq has no script named {name!r}; a version that was tested has one"
        raise ConfigurationError(msg)
    return _script(name, file, _read(file))


def _read(file: str) -> str:
    with open(file, encoding="utf-8") as opened:  # noqa: PTH123 - see _scripts_in
        return opened.read()


def _script(name: str, file: str, text: str) -> Script:
    return _made(name, int(file.removesuffix(".lua").rpartition("-")[2]), text)


def _made(name: str, keys: int, text: str) -> Script:
    return Script(name, keys, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


@functools.cache
def _scripts_in(folder: str) -> dict[str, str]:
    """The files of a folder by the names of their scripts; pathlib is not worth its import here."""
    files = [file for file in os.listdir(folder) if file.endswith(".lua")]  # noqa: PTH208
    return {file.rpartition("-")[0]: f"{folder}/{file}" for file in files if "-" in file}


@functools.cache
def _bullmqs_folder() -> str:
    spec = importlib.util.find_spec("bullmq")
    if spec is None or not spec.submodule_search_locations:
        msg = "the bullmq package is not installed: pip install bullmq"
        raise ConfigurationError(msg)
    return f"{spec.submodule_search_locations[0]}/commands"
