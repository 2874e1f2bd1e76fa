"""Which line of a stack is the application's own: the one that its author wants to see. Pure."""

from __future__ import annotations

import re
import sysconfig
from pathlib import PurePath
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from traceback import FrameSummary

_FRAME = re.compile(r'^ *File "(.+?)", line (\d+), in (.+)$', re.MULTILINE)
_JAVASCRIPT_FRAME = re.compile(r"^ +at \S")
_JAVASCRIPT_LIBRARY = re.compile(r"node_modules|\bnode:|<anonymous>")
_PACKAGES = ("site-packages", "dist-packages")
_STDLIB = tuple({sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib")})
_OURS = str(PurePath(__file__).parent.parent) + "/"


class Place(Struct, frozen=True):
    """A line of a stack."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


def places_in(stack: str | None) -> list[Place]:
    """The lines of a traceback's text, the outermost first."""
    return [
        Place(file, int(line), function) for file, line, function in _FRAME.findall(stack or "")
    ]


def places_of(frames: Iterable[FrameSummary]) -> list[Place]:
    """The lines of a stack, in its order."""
    return [Place(frame.filename, frame.lineno or 0, frame.name) for frame in frames]


def application_place(places: Sequence[Place]) -> Place | None:
    """The innermost line of the application, of lines from the handler (outermost) inwards.

    Code of the standard library, of installed packages and of this library is passed over. A
    handler that is itself in an installed package makes that package the application. Where no
    line is the application's, it is the innermost of all.
    """
    if not places:
        return None
    home = _package(places[0].file)
    own = [place for place in places if _is_application(place.file, home)]
    return (own or places)[-1]


def sections_of(stack: str) -> list[tuple[str, str]]:
    """The parts of a stack's text, in its order, each with whose it is.

    That is ``application`` or ``library`` for frames of Python and of JavaScript, and ``text`` for
    what is no frame. Neighbours of one kind are one part.
    """
    home = next((_package(match[1]) for match in _FRAME.finditer(stack)), None)
    parts: list[tuple[str, list[str]]] = []
    whose = "text"
    for line in stack.splitlines():
        frame = _FRAME.match(line)
        if frame is not None:
            whose = "application" if _is_application(frame[1], home) else "library"
        elif _JAVASCRIPT_FRAME.match(line):
            whose = "library" if _JAVASCRIPT_LIBRARY.search(line) else "application"
        elif not line.startswith("    "):  # the line of code, and the marks below it, are indented
            whose = "text"
        if not parts or parts[-1][0] != whose:
            parts.append((whose, []))
        parts[-1][1].append(line)
    return [(whose, "\n".join(lines)) for whose, lines in parts]


def _is_application(file: str, home: str | None) -> bool:
    if file.startswith(("<frozen", "<string", _OURS)):
        return False
    package = _package(file)
    if package is not None:
        return package == home
    return not file.startswith(_STDLIB)


def _package(file: str) -> str | None:
    """The path of the installed package that a file belongs to, or None."""
    parts = PurePath(file).parts
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] in _PACKAGES:
            return str(PurePath(*parts[: index + 2]))
    return None
