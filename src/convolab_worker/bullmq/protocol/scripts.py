"""BullMQ's Lua scripts, read from the installed bullmq package, and how one is run.

The scripts are the protocol: what they do to Redis is what Node's QueueEvents, flows and dashboards
see. Only their files are used; importing the package's Python would cost 150 ms at every start.
``tests/integration/test_conformance.py`` pins each by name, keys and behaviour.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convolab_worker.errors import ConfigurationError, RedisRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convolab_worker.connection.connection import Connection
    from convolab_worker.connection.usage import Purpose


@dataclass(frozen=True, slots=True)
class Script:
    """One of BullMQ's scripts: its file's name without the number of keys, and its text."""

    name: str
    keys: int
    text: str
    sha: str

    async def run(
        self, connection: Connection, purpose: Purpose, keys: Sequence[str], args: Sequence[Any]
    ) -> Any:
        """Run the script on ``connection``; its text is sent only when the server doesn't know it.

        Raises what ``Connection.call`` raises.
        """
        try:
            return await connection.call(purpose, "EVALSHA", self.sha, self.keys, *keys, *args)
        except RedisRefused as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await connection.call(purpose, "EVAL", self.text, self.keys, *keys, *args)


async def run_all(
    connection: Connection, purpose: Purpose, calls: Sequence[tuple[str, Any, Any]]
) -> list[Any]:
    """Run scripts, each with its keys and arguments, in one pipeline; their answers in order.

    Raises what the first of them that failed raises, once all are answered.
    """
    found = [script(name) for name, _, _ in calls]
    futures = [
        connection.call(purpose, "EVALSHA", one.sha, one.keys, *keys, *args)
        for one, (_, keys, args) in zip(found, calls, strict=True)
    ]
    answers: list[Any] = []
    failed: BaseException | None = None
    for one, (_, keys, args), future in zip(found, calls, futures, strict=True):
        try:
            answers.append(await future)
        except RedisRefused as error:
            if not str(error).startswith("NOSCRIPT"):
                failed = failed or error
                continue
            answers.append(await one.run(connection, purpose, keys, args))
    if failed is not None:
        raise failed
    return answers


@functools.cache
def script(name: str) -> Script:
    """BullMQ's script of that name, such as ``moveToActive``.

    Raises ConfigurationError if the installed bullmq has no such script.
    """
    found = sorted(_folder().glob(f"{name}-*.lua"))
    if len(found) != 1:
        msg = f"bullmq has {len(found)} scripts named {name!r}; a version that was tested has one"
        raise ConfigurationError(msg)
    text = found[0].read_text(encoding="utf-8")
    return _made(name, int(found[0].stem.rpartition("-")[2]), text)


@functools.cache
def own_script(name: str, keys: int) -> Script:
    """A script of our own, for what BullMQ has none: moving a job, cancelling one that runs."""
    text = files("convolab_worker.bullmq").joinpath(f"lua/{name}.lua").read_text(encoding="utf-8")
    return _made(name, keys, text)


@functools.cache
def guarded_script(name: str, guard: str, keys: int) -> Script:
    """BullMQ's script of that name behind a line of ours, which may answer instead of it.

    For what the script does not ask itself; ``keys`` counts its own and those of the ``guard``.
    """
    return _made(name, keys, f"{guard}\n{script(name).text}")


def _made(name: str, keys: int, text: str) -> Script:
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name=name, keys=keys, text=text, sha=sha)


@functools.cache
def _folder() -> Path:
    spec = importlib.util.find_spec("bullmq")
    if spec is None or not spec.submodule_search_locations:
        msg = "the bullmq package is not installed: pip install bullmq"
        raise ConfigurationError(msg)
    return Path(spec.submodule_search_locations[0]) / "commands"
