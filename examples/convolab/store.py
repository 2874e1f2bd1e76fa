"""Where the example keeps what it makes: one folder for each dialogue or course.

An application has a database and a bucket here. Files are written beside their place and moved
into it, so that a job that runs twice, or dies half-way, never leaves half a file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from examples.convolab.model import Dialogue

OUTPUT_VARIABLE = "LESSON_OUTPUT"
"""The environment variable that says where the folder is; ./demo-output without it."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Store:
    """The folder of everything that was made."""

    root: Path

    @classmethod
    def from_env(cls) -> Store:
        """Return the store that the environment names."""
        return cls(Path(os.environ.get(OUTPUT_VARIABLE) or "demo-output").absolute())

    def path(self, owner: str, name: str = "") -> Path:
        """Return where file ``name`` of dialogue or course ``owner`` is.

        ValueError for an id that could lead out of the folder.
        """
        if not _ID.fullmatch(owner):
            msg = f"id {owner!r}: expected 1 to 64 letters, digits, - or _, a letter or digit first"
            raise ValueError(msg)
        return self.root / owner / name

    def write(self, owner: str, name: str, content: bytes) -> str:
        """Write a file whole or not at all; return its path from the root, as results name it."""
        path = self.path(owner, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            beside.write_bytes(content)
            beside.replace(path)
        except OSError as error:
            beside.unlink(
                missing_ok=True
            )  # a full disk is not to be kept full by a half-written file
            raise OSError(error.errno, error.strerror, str(path)) from error
        return str(path.relative_to(self.root))

    def read(self, owner: str, name: str) -> bytes:
        """Return a file's content; LookupError names what is missing."""
        try:
            return self.path(owner, name).read_bytes()
        except FileNotFoundError:
            msg = f"{owner} has no {name} yet"
            raise LookupError(msg) from None

    def save_dialogue(self, owner: str, dialogue: Dialogue) -> str:
        """Write a dialogue; return its path from the root."""
        text = msgspec.json.format(msgspec.json.encode(dialogue), indent=2)
        return self.write(owner, "dialogue.json", text)

    def dialogue(self, owner: str) -> Dialogue:
        """Return a dialogue that was saved; LookupError when there is none."""
        return msgspec.json.decode(self.read(owner, "dialogue.json"), type=Dialogue)

    def keep_only(self, owner: str, folder: str, names: set[str]) -> None:
        """Delete the pictures of an earlier run in ``folder`` that are not among ``names``."""
        for path in self.path(owner, folder).glob("*.png"):
            if path.name not in names:
                path.unlink(missing_ok=True)
