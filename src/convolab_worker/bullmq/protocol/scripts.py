"""The Lua scripts: BullMQ's, read from the installed bullmq package, and our own in ``lua/``.

BullMQ's scripts are the protocol: what they do to Redis is what Node's QueueEvents, flows and
dashboards see. Only the package's files are used; importing its Python would cost 150 ms at every
start. ``tests/integration/bullmq/test_conformance.py`` pins each script by name and keys.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
from pathlib import Path

from msgspec import Struct

from convolab_worker.errors import ConfigurationError

_OWN_FOLDER = Path(__file__).parents[1] / "lua"
_HEAD = re.compile(r"\A--\[\[.*?\]\]\n", re.DOTALL)
_INCLUDE = re.compile(r'^--- @include "(\w+)"$', re.MULTILINE)


class Script(Struct, frozen=True):
    """A script: the name and the number of KEYS in its file's name, and its text."""

    name: str
    keys: int
    text: str
    sha: str


@functools.cache
def script(name: str) -> Script:
    """Returns our own script of that name, or else BullMQ's, such as ``moveToActive``.

    A line ``--- @include "NAME"`` of an own script stands for the text of BullMQ's script NAME.
    Raises ConfigurationError if the installed bullmq has no such script.
    """
    own = [*_OWN_FOLDER.glob(f"{name}-*.lua")]
    file = own[0] if own else _bullmqs_file(name)
    text = file.read_text(encoding="utf-8")
    if own:
        text = _INCLUDE.sub(lambda line: script(line[1]).text, _HEAD.sub("", text))
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name=name, keys=int(file.stem.rpartition("-")[2]), text=text, sha=sha)


def _bullmqs_file(name: str) -> Path:
    found = sorted(_bullmqs_folder().glob(f"{name}-*.lua"))
    if len(found) != 1:
        msg = f"bullmq has {len(found)} scripts named {name!r}; a version that was tested has one"
        raise ConfigurationError(msg)
    return found[0]


@functools.cache
def _bullmqs_folder() -> Path:
    spec = importlib.util.find_spec("bullmq")
    if spec is None or not spec.submodule_search_locations:
        msg = "the bullmq package is not installed: pip install bullmq"
        raise ConfigurationError(msg)
    return Path(spec.submodule_search_locations[0]) / "commands"
