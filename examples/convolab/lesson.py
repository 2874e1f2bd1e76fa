"""A finished course: what ``course.json`` has in it and the page is made from."""

from __future__ import annotations

import msgspec

from examples.convolab.model import Cue, Dialogue


class Chapter(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the lesson's sound, and when each line is heard in the whole."""

    title: str
    start: float
    end: float
    cues: list[Cue]


class Course(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What ``course.json`` has in it; files are named from its own folder."""

    course_id: str
    level: str
    dialogue: Dialogue
    author: str
    translator: str
    text: str
    lesson: str
    seconds: float
    chapters: list[Chapter]
    cover: str | None
    cards: list[str]
    pages: list[str]
    font: str | None
