"""Small drawings of what the fables speak of, from plain shapes.

Every drawing fills a square with corners ``(x, y)`` and ``(x + s, y + s)``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import cos, pi, sin

from PIL import ImageDraw

Draw = ImageDraw.ImageDraw
Icon = Callable[["Pen"], None]

INK = (38, 43, 56)
WHITE = (255, 255, 255)
CREAM = (250, 236, 212)


class Pen:
    """Draws in the unit square, which stands for a square of the picture."""

    def __init__(self, draw: Draw, x: float, y: float, size: float) -> None:
        """Draw on ``draw``, in the square at ``(x, y)``."""
        self._draw, self._x, self._y, self._size = draw, x, y, size

    def _at(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(self._x + px * self._size, self._y + py * self._size) for px, py in points]

    def oval(self, cx: float, cy: float, rx: float, ry: float, fill: tuple[int, ...]) -> None:
        """Fill an oval around ``(cx, cy)``."""
        (left, top), (right, bottom) = self._at([(cx - rx, cy - ry), (cx + rx, cy + ry)])
        self._draw.ellipse((left, top, right, bottom), fill=fill)

    def shape(self, points: list[tuple[float, float]], fill: tuple[int, ...]) -> None:
        """Fill the polygon through ``points``."""
        self._draw.polygon(self._at(points), fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: tuple[int, ...]) -> None:
        """Fill a box with round corners."""
        (left, top), (right, bottom) = self._at([(x0, y0), (x1, y1)])
        self._draw.rounded_rectangle((left, top, right, bottom), self._size * 0.05, fill=fill)

    def path(self, points: list[tuple[float, float]], fill: tuple[int, ...], width: float) -> None:
        """Draw a line with round ends through ``points``."""
        for start, end in pairwise(points):
            self._draw.line(self._at([start, end]), fill=fill, width=round(width * self._size))
        for px, py in points:
            self.oval(px, py, width / 2, width / 2, fill)

    def eyes(self, y: float, apart: float = 0.16, size: float = 0.035) -> None:
        """Draw two eyes in the middle."""
        for side in (-1, 1):
            self.oval(0.5 + side * apart, y, size, size * 1.25, INK)
            self.oval(0.5 + side * apart + 0.012, y - 0.012, size * 0.35, size * 0.35, WHITE)


def _hare(pen: Pen) -> None:
    fur, inner = (196, 160, 128), (240, 190, 180)
    for side in (-1, 1):
        pen.oval(0.5 + side * 0.14, 0.24, 0.085, 0.23, fur)
        pen.oval(0.5 + side * 0.14, 0.25, 0.04, 0.17, inner)
    pen.oval(0.5, 0.64, 0.3, 0.27, fur)
    pen.oval(0.5, 0.74, 0.16, 0.12, CREAM)
    pen.eyes(0.59)
    pen.oval(0.5, 0.69, 0.035, 0.025, (214, 110, 118))


def _tortoise(pen: Pen) -> None:
    skin, shell, dark = (132, 176, 104), (104, 132, 70), (80, 104, 54)
    for px in (0.26, 0.62):
        pen.oval(px, 0.74, 0.08, 0.1, skin)
    pen.oval(0.84, 0.5, 0.12, 0.11, skin)
    pen.path([(0.7, 0.64), (0.82, 0.52)], skin, 0.12)
    pen.oval(0.45, 0.55, 0.37, 0.27, shell)
    for px, py in ((0.45, 0.52), (0.26, 0.55), (0.64, 0.55), (0.36, 0.4), (0.55, 0.4)):
        pen.oval(px, py, 0.075, 0.065, dark)
    pen.box(0.1, 0.64, 0.8, 0.72, dark)
    pen.oval(0.88, 0.48, 0.02, 0.025, INK)


def _fox(pen: Pen) -> None:
    fur, dark = (226, 120, 52), (172, 82, 30)
    pen.shape([(0.16, 0.08), (0.44, 0.36), (0.16, 0.5)], fur)
    pen.shape([(0.84, 0.08), (0.56, 0.36), (0.84, 0.5)], fur)
    pen.shape([(0.21, 0.2), (0.34, 0.35), (0.2, 0.42)], dark)
    pen.shape([(0.79, 0.2), (0.66, 0.35), (0.8, 0.42)], dark)
    pen.shape([(0.14, 0.42), (0.5, 0.28), (0.86, 0.42), (0.5, 0.92)], fur)
    pen.shape([(0.14, 0.44), (0.36, 0.56), (0.5, 0.92)], CREAM)
    pen.shape([(0.86, 0.44), (0.64, 0.56), (0.5, 0.92)], CREAM)
    pen.eyes(0.5, 0.15)
    pen.oval(0.5, 0.88, 0.05, 0.04, INK)


def _crow(pen: Pen) -> None:
    feather, wing = (52, 58, 78), (78, 88, 118)
    pen.shape([(0.06, 0.8), (0.3, 0.52), (0.36, 0.72)], feather)
    pen.oval(0.45, 0.6, 0.27, 0.22, feather)
    pen.oval(0.66, 0.36, 0.17, 0.17, feather)
    pen.shape([(0.78, 0.3), (0.99, 0.4), (0.78, 0.45)], (232, 170, 60))
    pen.shape([(0.22, 0.74), (0.5, 0.46), (0.62, 0.64)], wing)
    pen.oval(0.7, 0.33, 0.045, 0.045, WHITE)
    pen.oval(0.71, 0.33, 0.022, 0.022, INK)
    for px in (0.42, 0.52):
        pen.path([(px, 0.8), (px, 0.93), (px + 0.07, 0.94)], (232, 170, 60), 0.025)


def _wind(pen: Pen) -> None:
    pen.oval(0.34, 0.4, 0.22, 0.2, (206, 220, 236))
    pen.oval(0.2, 0.5, 0.16, 0.14, (206, 220, 236))
    pen.oval(0.44, 0.52, 0.18, 0.14, (206, 220, 236))
    for row, (py, reach) in enumerate(((0.44, 0.95), (0.58, 0.86), (0.72, 0.95))):
        curve = [
            (0.4 + step * (reach - 0.4) / 12, py + 0.03 * sin(step / 2 + row)) for step in range(13)
        ]
        pen.path(curve, (120, 154, 196), 0.035)
    pen.oval(0.28, 0.4, 0.025, 0.035, INK)
    pen.oval(0.42, 0.4, 0.025, 0.035, INK)
    pen.oval(0.37, 0.5, 0.04, 0.045, INK)


def _sun(pen: Pen) -> None:
    for ray in range(12):
        angle = ray * pi / 6
        near = (0.5 + 0.33 * cos(angle), 0.5 + 0.33 * sin(angle))
        far = (0.5 + 0.45 * cos(angle), 0.5 + 0.45 * sin(angle))
        pen.path([near, far], (244, 176, 52), 0.05)
    pen.oval(0.5, 0.5, 0.28, 0.28, (250, 198, 72))
    pen.eyes(0.47, 0.1)
    pen.path([(0.4, 0.58), (0.5, 0.63), (0.6, 0.58)], INK, 0.025)


def _traveler(pen: Pen) -> None:
    pen.shape([(0.5, 0.3), (0.82, 0.94), (0.18, 0.94)], (126, 92, 150))
    pen.oval(0.5, 0.3, 0.15, 0.16, (240, 204, 170))
    pen.oval(0.5, 0.18, 0.27, 0.06, (92, 66, 50))
    pen.oval(0.5, 0.13, 0.14, 0.1, (92, 66, 50))
    pen.eyes(0.31, 0.06, 0.018)
    pen.path([(0.86, 0.34), (0.86, 0.94)], (120, 84, 54), 0.035)


def _grapes(pen: Pen) -> None:
    pen.path([(0.5, 0.06), (0.5, 0.24)], (120, 84, 54), 0.04)
    pen.shape([(0.5, 0.16), (0.78, 0.06), (0.84, 0.24), (0.62, 0.28)], (104, 152, 84))
    for row in range(4):
        for place in range(4 - row):
            px = 0.5 + (place - (3 - row) / 2) * 0.2
            pen.oval(px, 0.34 + row * 0.17, 0.11, 0.11, (110, 72, 142))
            pen.oval(px - 0.035, 0.3 + row * 0.17, 0.03, 0.03, (166, 132, 194))


def _pitcher(pen: Pen) -> None:
    clay, dark = (196, 112, 76), (156, 84, 54)
    pen.path([(0.7, 0.34), (0.88, 0.4), (0.86, 0.6), (0.72, 0.66)], dark, 0.06)
    pen.oval(0.48, 0.66, 0.29, 0.27, clay)
    pen.shape([(0.34, 0.16), (0.62, 0.16), (0.68, 0.56), (0.28, 0.56)], clay)
    pen.oval(0.48, 0.16, 0.2, 0.055, dark)
    pen.box(0.2, 0.62, 0.76, 0.68, (236, 186, 140))


def _water(pen: Pen) -> None:
    pen.shape([(0.5, 0.08), (0.76, 0.56), (0.24, 0.56)], (92, 160, 214))
    pen.oval(0.5, 0.64, 0.28, 0.28, (92, 160, 214))
    pen.oval(0.4, 0.64, 0.06, 0.11, (190, 220, 242))


def _stones(pen: Pen) -> None:
    pen.oval(0.3, 0.72, 0.24, 0.17, (142, 146, 156))
    pen.oval(0.7, 0.74, 0.22, 0.15, (118, 122, 134))
    pen.oval(0.5, 0.5, 0.2, 0.15, (168, 172, 182))
    pen.oval(0.44, 0.46, 0.06, 0.03, (206, 210, 218))


def _goal(pen: Pen) -> None:
    for px in (0.18, 0.82):
        pen.path([(px, 0.14), (px, 0.92)], (120, 84, 54), 0.045)
    for column in range(8):
        for row in range(3):
            shade = INK if (column + row) % 2 else WHITE
            left, top = 0.18 + column * 0.08, 0.16 + row * 0.08
            pen.shape(
                [(left, top), (left + 0.08, top), (left + 0.08, top + 0.08), (left, top + 0.08)],
                shade,
            )


def _path(pen: Pen) -> None:
    pen.oval(0.5, 0.9, 0.5, 0.3, (150, 190, 120))
    pen.shape([(0.46, 0.62), (0.54, 0.62), (0.8, 1.0), (0.2, 1.0)], (226, 204, 164))
    pen.oval(0.78, 0.4, 0.14, 0.17, (104, 152, 84))
    pen.box(0.76, 0.54, 0.8, 0.72, (120, 84, 54))


def _clothes(pen: Pen) -> None:
    cloth = (176, 78, 88)
    pen.shape([(0.3, 0.16), (0.7, 0.16), (0.96, 0.4), (0.82, 0.52), (0.72, 0.44)], cloth)
    pen.shape([(0.3, 0.16), (0.7, 0.16), (0.28, 0.44), (0.18, 0.52), (0.04, 0.4)], cloth)
    pen.box(0.27, 0.2, 0.73, 0.9, cloth)
    pen.oval(0.5, 0.16, 0.12, 0.08, CREAM)
    for py in (0.4, 0.55, 0.7):
        pen.oval(0.5, py, 0.025, 0.025, CREAM)


def _book(pen: Pen) -> None:
    pen.shape([(0.06, 0.24), (0.5, 0.32), (0.5, 0.84), (0.06, 0.76)], WHITE)
    pen.shape([(0.94, 0.24), (0.5, 0.32), (0.5, 0.84), (0.94, 0.76)], (238, 232, 220))
    pen.path([(0.5, 0.32), (0.5, 0.84)], (172, 160, 140), 0.02)
    for row in range(4):
        py = 0.38 + row * 0.09
        pen.path([(0.14, py), (0.42, py + 0.05)], (190, 180, 162), 0.018)
        pen.path([(0.86, py), (0.58, py + 0.05)], (190, 180, 162), 0.018)


ICONS: dict[str, Icon] = {
    "hare": _hare,
    "tortoise": _tortoise,
    "fox": _fox,
    "crow": _crow,
    "wind": _wind,
    "sun": _sun,
    "traveler": _traveler,
    "grapes": _grapes,
    "vine": _grapes,
    "pitcher": _pitcher,
    "water": _water,
    "stream": _water,
    "stones": _stones,
    "beak": _crow,
    "race": _goal,
    "goal": _goal,
    "path": _path,
    "cloak": _clothes,
    "clothes": _clothes,
    "book": _book,
}
"""A drawing for every noun of the lexicon, and a book for a line that names none."""


def draw_icon(draw: Draw, name: str, x: float, y: float, size: float) -> None:
    """Draw the icon called ``name`` in the square at ``(x, y)``."""
    ICONS[name](Pen(draw, x, y, size))
