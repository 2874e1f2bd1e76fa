"""The typeface of the cards, and text laid out in it.

Noto Sans JP, from the Python package pylopdf-fonts-cjk (SIL Open Font License 1.1): it has Latin
with accents, kana and the kanji of everyday Japanese, so that no system font is needed.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import files
from pathlib import Path

import pylopdf_fonts_cjk
from PIL import ImageFont

Font = ImageFont.FreeTypeFont

_NOT_AT_LINE_START = frozenset(
    "、。，．！？」』）〉》】ー々ぁぃぅぇぉっゃゅょァィゥェォッャュョ・:;!?»”"
)
_NOT_AT_LINE_END = frozenset("「『（〈《【«„“¿¡")
_JAPANESE = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]")
_ABSENT = "\uffff"


def font_path() -> Path:
    """Return the file of the typeface."""
    return pylopdf_fonts_cjk.sans_path()


def font_licence() -> str:
    """Return the typeface's licence, which has to go where the file goes."""
    for path in files("pylopdf-fonts-cjk") or ():
        if path.name == "LICENSE":
            return path.read_text(encoding="utf-8")
    msg = "the package pylopdf-fonts-cjk has no LICENSE in it"
    raise LookupError(msg)


@cache
def font(size: int) -> Font:
    """Return the typeface at ``size`` pixels."""
    return ImageFont.truetype(str(font_path()), size)


@cache
def _missing_glyph() -> bytes:
    """Return the picture of the box that stands for a character without a glyph."""
    return bytes(font(32).getmask(_ABSENT))


@cache
def has_glyph(character: str) -> bool:
    """Say whether the typeface can show ``character``."""
    if character.isspace():
        return True
    return bytes(font(32).getmask(character)) != _missing_glyph()


def missing(text: str) -> list[str]:
    """Return the characters of ``text`` that would be shown as empty boxes."""
    return sorted({character for character in text if not has_glyph(character)})


def showable(text: str) -> str:
    """Return ``text`` without the characters that the typeface can't show."""
    return "".join(character for character in text if has_glyph(character))


def wrap(text: str, size: int, width: int) -> list[str]:
    """Break ``text`` into lines of at most ``width`` pixels, as its script is broken."""
    lines: list[str] = []
    current = ""
    for piece in _pieces(text):
        if current and font(size).getlength((current + piece).rstrip()) > width:
            lines.append(current.rstrip())
            current = piece.lstrip(" ")
        else:
            current += piece
    return [*lines, current.rstrip()] if current.strip() or not lines else lines


def fit(text: str, width: int, height: float, sizes: range) -> tuple[int, list[str]]:
    """Return the largest of ``sizes`` at which ``text`` has room in a box, and its lines.

    At the smallest size, what is too much is cut with an ellipsis.
    """
    lines: list[str] = []
    for size in sizes:
        lines = wrap(text, size, width)
        if len(lines) * line_height(size) <= height:
            return size, lines
    smallest = sizes[-1]
    room = max(1, int(height / line_height(smallest)))
    if len(lines) <= room:
        return smallest, lines
    last = lines[room - 1]
    while font(smallest).getlength(last + "…") > width:
        last = last[:-1]
    return smallest, [*lines[: room - 1], last + "…"]


def line_height(size: int) -> float:
    """Return how far below a line the next one starts, in pixels."""
    return size * 1.34


def _pieces(text: str) -> list[str]:
    """Split ``text`` where a line may end: after a space, or between Japanese characters."""
    pieces: list[str] = []
    for character in text:
        last = pieces[-1][-1:] if pieces else ""
        glued = (
            not pieces
            or character in _NOT_AT_LINE_START
            or last in _NOT_AT_LINE_END
            or character == " "
            or (last != " " and not _JAPANESE.match(character) and not _JAPANESE.match(last))
        )
        if glued and pieces:
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces
