"""Finds the application's own line in a stack: the one that its author wants to see. Pure."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from traceback import FrameSummary

# Python compiles these when the first job fails: a start does not need them.
# Within an ExceptionGroup's text every line has a margin, such as "    | ".
_MARGIN = r"^ +\| ?"
_FRAME = r'^ *File "(.+?)", line (\d+), in (.+)$'
_BEGIN = r"^(?: *\+ Exception Group )?(?:Exception Group )?Traceback \(most recent call"
_SECOND_OF_A_GROUP = r"^ *\+-+ 2 -+$"
_JAVASCRIPT_FRAME = r"^ +at \S"
_JAVASCRIPT_LIBRARY = r"node_modules|\bnode:|<anonymous>"
_PACKAGES = ("site-packages", "dist-packages")
_OURS = __file__.removesuffix("telemetry/frames.py")


class Place(Struct, frozen=True):
    """A line of a stack."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


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
    own = _innermost_own(places, _package(places[0].file))
    return own or places[-1]


def application_place_in(stack: str | None) -> Place | None:
    """The same for a traceback's text, which may have causes and a group's exceptions.

    The exception that was raised last comes before its causes, which are often a library's own; a
    group's first exception comes before the group, whose line only waits for it.
    """
    tracebacks, main = _tracebacks(stack or "")
    home = _package(main[0].file) if main else None
    own = (_innermost_own(places, home) for places in reversed(tracebacks))
    inmost = tracebacks[-1][-1] if tracebacks else None
    return next(filter(None, own), inmost)


def names_application(stack: str) -> bool:
    """Whether a line of the application is among those of a stack's text."""
    return any(whose == "application" for whose, _ in sections_of(stack))


def sections_of(stack: str) -> list[tuple[str, str]]:
    """The parts of a stack's text, in its order, each with whose code it is.

    That is ``application`` or ``library`` for frames of Python and of JavaScript, and ``text`` for
    all else. Neighbours of one kind are one part.
    """
    _, main = _tracebacks(stack)
    home = _package(main[0].file) if main else None
    parts: list[tuple[str, list[str]]] = []
    whose = "text"
    for line in stack.splitlines():
        text = re.sub(_MARGIN, "", line)
        frame = re.match(_FRAME, text)
        if frame is not None:
            whose = "application" if _is_application(frame[1], home) else "library"
        elif re.match(_JAVASCRIPT_FRAME, text):
            whose = "library" if re.search(_JAVASCRIPT_LIBRARY, text) else "application"
        elif not text.startswith("    ") or re.match(_SECOND_OF_A_GROUP, text):
            whose = "text"  # the line of code, and the marks below it, are indented
        if not parts or parts[-1][0] != whose:
            parts.append((whose, []))
        parts[-1][1].append(line)
    return [(whose, "\n".join(lines)) for whose, lines in parts]


def _tracebacks(stack: str) -> tuple[list[list[Place]], list[Place]]:
    """The tracebacks of a text in its order, and the main one; of a group, only its first's.

    That is the traceback of the exception that left the handler: the last one without a margin.
    """
    found: list[list[Place]] = []
    current, main = list[Place](), list[Place]()
    is_passed_over = False
    for line in stack.splitlines():
        text = re.sub(_MARGIN, "", line)
        if re.match(_BEGIN, text):
            is_outer = text == line
            is_passed_over = is_passed_over and not is_outer
            current = []
            main = current if is_outer else main
        elif re.match(_SECOND_OF_A_GROUP, line):
            is_passed_over = True
        elif (frame := re.match(_FRAME, text)) is not None and not is_passed_over:
            if not current:
                found.append(current)
            current.append(Place(frame[1], int(frame[2]), frame[3]))
    return found, main or next(iter(found), [])


def _innermost_own(places: Sequence[Place], home: str | None) -> Place | None:
    return next((place for place in reversed(places) if _is_application(place.file, home)), None)


def _is_application(file: str, home: str | None) -> bool:
    if file.startswith(("<frozen", "<string", _OURS)):
        return False
    package = _package(file)
    if package is not None:
        return package == home
    return not file.startswith(_stdlib())


@functools.cache
def _stdlib() -> tuple[str, ...]:
    import sysconfig

    return tuple({sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib")})


def _package(file: str) -> str | None:
    """The path of the installed package that a file belongs to, or None."""
    from pathlib import PurePath

    parts = PurePath(file).parts
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] in _PACKAGES:
            return str(PurePath(*parts[: index + 2]))
    return None
