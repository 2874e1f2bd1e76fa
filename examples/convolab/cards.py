"""Pictures drawn with Pillow: a cover, a card for an exchange, a page for a sentence."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from examples.convolab.fonts import fit, font, line_height, showable
from examples.convolab.icons import ICONS, INK, draw_icon
from examples.convolab.model import LANGUAGE_NAMES, Dialogue, Line, level_label
from examples.convolab.reader import read, topics
from examples.convolab.sources import SourceText

WIDTH, HEIGHT = 1200, 800
_SCALE = 2
"""Cards are drawn larger and made smaller at the end, so that edges are smooth."""

Colour = tuple[int, int, int]

_PALETTES: tuple[tuple[Colour, Colour], ...] = (
    ((253, 238, 214), (248, 208, 176)),
    ((222, 238, 244), (178, 210, 226)),
    ((232, 240, 218), (196, 218, 172)),
    ((242, 228, 242), (216, 194, 226)),
    ((252, 230, 226), (240, 192, 188)),
)
_SPEAKERS: tuple[Colour, ...] = ((196, 84, 62), (46, 110, 142), (92, 126, 58), (124, 84, 150))
_MUTED: Colour = (104, 106, 118)
_PAPER: Colour = (255, 255, 255)


@dataclass(slots=True)
class _Canvas:
    """A picture in the making; coordinates are those of the finished card."""

    image: Image.Image
    draw: ImageDraw.ImageDraw

    def text(self, x: float, y: float, text: str, size: int, fill: Colour) -> None:
        """Write one line, its top left corner at ``(x, y)``."""
        self.draw.text((x * _SCALE, y * _SCALE), text, fill=fill, font=font(size * _SCALE))

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: int) -> None:
        """Fill a box with round corners."""
        corners = (x0 * _SCALE, y0 * _SCALE, x1 * _SCALE, y1 * _SCALE)
        self.draw.rounded_rectangle(corners, radius * _SCALE, fill=fill)

    def icon(self, name: str, x: float, y: float, size: float) -> None:
        """Draw an icon."""
        draw_icon(self.draw, name, x * _SCALE, y * _SCALE, size * _SCALE)

    def png(self) -> bytes:
        """Return the finished card."""
        small = self.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        small.save(file, "PNG", compress_level=6)
        return file.getvalue()


def exchange_card(dialogue: Dialogue, number: int) -> bytes:
    """Return the card of exchange ``number`` (from 0) as PNG: what is said, by whom, about what."""
    lines = dialogue.exchanges()[number]
    canvas = _canvas(number)
    said = " ".join(line.phrase.translation for line in lines)
    _icons(canvas, [name for name in topics(said) if name in ICONS][:3] or ["book"])
    for place, line in enumerate(lines):
        _bubble(canvas, dialogue, line, 262 + place * 258)
    total = len(dialogue.exchanges())
    _corner(canvas, f"{number + 1} / {total}")
    return canvas.png()


def cover(dialogue: Dialogue, source: SourceText) -> bytes:
    """Return the lesson's cover as PNG."""
    canvas = _canvas(0)
    found = _named_in(source.text)
    size = 260
    left = (WIDTH - len(found) * (size + 30) + 30) / 2
    for place, name in enumerate(found):
        canvas.icon(name, left + place * (size + 30), 70, size)
    _centred(canvas, dialogue.title.text, 370, 84, 64, INK)
    _centred(canvas, dialogue.title.translation, 500, 40, 30, _MUTED)
    level = level_label(dialogue.level, dialogue.language)
    _centred(canvas, f"{LANGUAGE_NAMES[dialogue.language]} · {level}", 590, 34, 26, _SPEAKERS[1])
    names = " · ".join(speaker.name for speaker in dialogue.speakers)
    _centred(canvas, names, 650, 32, 24, INK)
    _centred(canvas, f"{source.author} · {source.translator}", 725, 24, 20, _MUTED)
    return canvas.png()


def script_page(source: SourceText, number: int) -> bytes:
    """Return a picture of sentence ``number`` (from 0) of the source text as PNG."""
    sentence = source.sentences()[number]
    canvas = _canvas(number + 1)
    _icons(canvas, _named_in(sentence))
    canvas.box(70, 270, WIDTH - 70, HEIGHT - 80, _PAPER, 36)
    size, lines = fit(showable(sentence), WIDTH - 260, HEIGHT - 410, range(44, 18, -2))
    top = 270 + (HEIGHT - 350 - len(lines) * line_height(size)) / 2
    for row, line in enumerate(lines):
        canvas.text(130, top + row * line_height(size), line, size, INK)
    _corner(canvas, f"{source.title['en'][0]} · {number + 1} / {len(source.sentences())}")
    return canvas.png()


def _canvas(number: int) -> _Canvas:
    """Return a canvas with a background that runs from one colour to another."""
    light, dark = _PALETTES[number % len(_PALETTES)]
    strip = Image.new("RGB", (1, 32))
    for row in range(32):
        share = row / 31
        mixed = [round(a + (b - a) * share) for a, b in zip(light, dark, strict=True)]
        strip.putpixel((0, row), (mixed[0], mixed[1], mixed[2]))
    image = strip.resize((WIDTH * _SCALE, HEIGHT * _SCALE), Image.Resampling.BILINEAR)
    return _Canvas(image, ImageDraw.Draw(image))


def _icons(canvas: _Canvas, names: Sequence[str]) -> None:
    size, gap = 190, 40
    left = (WIDTH - len(names) * (size + gap) + gap) / 2
    for place, name in enumerate(names):
        canvas.icon(name, left + place * (size + gap), 48, size)


def _bubble(canvas: _Canvas, dialogue: Dialogue, line: Line, top: float) -> None:
    """Draw what a speaker says: the first on the left, the others on the right."""
    right = line.speaker % 2 == 1
    left = 150 if right else 60
    colour = _SPEAKERS[line.speaker % len(_SPEAKERS)]
    canvas.box(left, top, left + 990, top + 240, _PAPER, 34)
    canvas.box(left + (958 if right else 0), top + 34, left + (990 if right else 32), top + 206,
               colour, 12)  # fmt: skip
    phrase = line.phrase
    inner = left + (36 if right else 62)
    name = showable(dialogue.speakers[line.speaker].name)
    canvas.text(inner, top + 14, name, 24, colour)
    below = top + 48.0
    if phrase.reading:
        size, rows = fit(showable(phrase.reading), 890, 36, range(25, 15, -1))
        canvas.text(inner, below, rows[0], size, _MUTED)
        below += 36
    _column(canvas, inner, below, phrase.text, top + 196 - below, range(46, 22, -2))
    size, rows = fit(showable(phrase.translation), 890, 34, range(24, 13, -1))
    canvas.text(inner, top + 200, rows[0], size, _MUTED)


def _column(canvas: _Canvas, x: float, y: float, text: str, height: float, sizes: range) -> None:
    """Write ``text`` in as many lines as it needs."""
    size, rows = fit(showable(text), 890, height, sizes)
    for row in rows:
        canvas.text(x, y, row, size, INK)
        y += line_height(size)


def _named_in(text: str) -> list[str]:
    """Return the icons of what a source text speaks of: its characters first."""
    found = read(text)
    names = [noun.id for noun in (*found.characters, *found.things) if noun.id in ICONS]
    return names[:3] or ["book"]


def _centred(
    canvas: _Canvas, text: str, top: float, largest: int, smallest: int, fill: Colour
) -> None:
    size, lines = fit(
        showable(text), WIDTH - 120, line_height(largest), range(largest, smallest - 1, -2)
    )
    width = font(size * _SCALE).getlength(lines[0]) / _SCALE
    canvas.text((WIDTH - width) / 2, top, lines[0], size, fill)


def _corner(canvas: _Canvas, text: str) -> None:
    width = font(22 * _SCALE).getlength(text) / _SCALE
    canvas.text(WIDTH - width - 28, 20, text, 22, _MUTED)
