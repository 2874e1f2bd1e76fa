"""What the parts of a lesson are: speakers, lines, a dialogue, a lesson's timetable."""

from __future__ import annotations

from typing import Literal

import msgspec

Language = Literal["ja", "es", "de", "fr"]
Level = Literal["N5", "N4", "N3", "N2", "N1"]
PauseMode = Literal["none", "short", "repeat"]

LANGUAGE_NAMES: dict[Language, str] = {
    "ja": "Japanese",
    "es": "Spanish",
    "de": "German",
    "fr": "French",
}

CEFR: dict[Level, str] = {"N5": "A1", "N4": "A2", "N3": "B1", "N2": "B2", "N1": "C1"}
"""The levels of the European framework that the levels of the Japanese test stand for here."""


def level_label(level: Level, language: Language) -> str:
    """Name ``level`` as learners of ``language`` do: JLPT for Japanese, CEFR for the others."""
    return f"JLPT {level}" if language == "ja" else f"CEFR {CEFR[level]}"


class Speaker(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who takes part in a dialogue.

    ``voice`` is a variant of the speech library, "f2" or "m3" for example; without it, speakers
    get different voices in turn. ``reading`` is the name in kana, for a Japanese name in kanji;
    ``english`` the name in Latin letters, for translations.
    """

    name: str
    voice: str | None = None
    reading: str | None = None
    english: str | None = None


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """What a dialogue is to be: ``length`` lines, each with ``variation_count`` variations.

    The speakers take turns.
    """

    language: Language
    level: Level
    length: int
    variation_count: int
    speakers: list[Speaker]


class Phrase(msgspec.Struct, frozen=True, kw_only=True):
    """Something said: as written, as read in kana (Japanese only), and in English."""

    text: str
    translation: str
    reading: str | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a dialogue, by ``speakers[speaker]``, with other ways of saying it."""

    speaker: int
    phrase: Phrase
    variations: list[Phrase] = []


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A word worth learning, with its meaning in English."""

    text: str
    meaning: str
    reading: str | None = None


class Dialogue(msgspec.Struct, frozen=True, kw_only=True):
    """A dialogue about a source text, and who or what composed it (``made_by``)."""

    title: Phrase
    language: Language
    level: Level
    speakers: list[Speaker]
    lines: list[Line]
    words: list[Word]
    source: str
    made_by: str

    def exchanges(self) -> list[list[Line]]:
        """Return the lines in pairs, a remark and its reply; an odd last line stands alone."""
        return [self.lines[at : at + 2] for at in range(0, len(self.lines), 2)]


class Cue(msgspec.Struct, frozen=True, kw_only=True):
    """When a line is heard: seconds from the start of the recording."""

    line: int
    start: float
    end: float


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """A dialogue as sound: where the file is, how long it lasts, when each line is heard."""

    file: str
    title: str
    seconds: float
    cues: list[Cue]


DEFAULT_SPEAKERS: dict[Language, list[Speaker]] = {
    "ja": [
        Speaker(name="ユキ", english="Yuki", voice="f2"),
        Speaker(name="ケン", english="Ken", voice="m3"),
    ],
    "es": [Speaker(name="Lucía", voice="f2"), Speaker(name="Mateo", voice="m3")],
    "de": [Speaker(name="Anna", voice="f2"), Speaker(name="Jonas", voice="m3")],
    "fr": [Speaker(name="Camille", voice="f2"), Speaker(name="Hugo", voice="m3")],
}
"""Who speaks when a payload doesn't say."""
