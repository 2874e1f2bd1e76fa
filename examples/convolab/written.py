"""Dialogues written by a language model: what it is asked, and how its answer is checked."""

from __future__ import annotations

import msgspec

from examples.convolab.composer import words
from examples.convolab.model import (
    LANGUAGE_NAMES,
    Dialogue,
    Line,
    Outline,
    Phrase,
    level_label,
)
from examples.convolab.reader import read
from examples.convolab.sources import SourceText


class BadAnswer(ValueError):
    """The model's answer is not the dialogue that was asked for; another attempt may be."""


class _Said(msgspec.Struct, frozen=True):
    text: str
    translation: str
    reading: str | None = None


class _Turn(_Said, frozen=True):
    variations: list[_Said] = []


class _Answer(msgspec.Struct, frozen=True):
    title: _Said
    lines: list[_Turn]


def messages(source: SourceText, outline: Outline) -> list[dict[str, str]]:
    """Return what to ask a chat model for."""
    language = outline.language
    names = ", ".join(speaker.name for speaker in outline.speakers)
    reading = ""
    if language == "ja":
        reading = (
            ' Add "reading" to title, lines and variations: the same sentence in hiragana and'
            " katakana only, with spaces between words."
        )
    rules = (
        f"You write dialogues for learners of {LANGUAGE_NAMES[language]} at level"
        f" {level_label(outline.level, language)}. Use only words and grammar of that level."
        ' Answer with one JSON object: {"title": {"text", "translation"}, "lines": [{"text",'
        ' "translation", "variations": [{"text", "translation"}]}]}.'
        f' "text" is {LANGUAGE_NAMES[language]}, "translation" is English.{reading}'
        f" Exactly {outline.length} lines, spoken in turn by {names}, without their names in the"
        " text."
        f" Exactly {outline.variation_count} variations for each line: other ways to say the same."
    )
    task = f"The dialogue is about this text:\n\n{source.title['en'][0]}\n\n{source.text}"
    return [{"role": "system", "content": rules}, {"role": "user", "content": task}]


def parse(answer: str, source: SourceText, outline: Outline, *, made_by: str) -> Dialogue:
    """Return the dialogue in the model's ``answer``; BadAnswer says what is wrong with it."""
    try:
        found = msgspec.json.decode(answer, type=_Answer)
    except msgspec.DecodeError as error:
        msg = f"{made_by} gave no dialogue: {error}"
        raise BadAnswer(msg) from error
    if len(found.lines) != outline.length:
        msg = f"{made_by} wrote {len(found.lines)} lines: expected {outline.length}"
        raise BadAnswer(msg)
    lines = []
    for number, turn in enumerate(found.lines):
        if len(turn.variations) < outline.variation_count:
            count = len(turn.variations)
            wanted = outline.variation_count
            msg = f"{made_by}: lines[{number}] has {count} variations: expected {wanted}"
            raise BadAnswer(msg)
        if not turn.text.strip() or (outline.language == "ja" and not turn.reading):
            missing = "reading" if turn.text.strip() else "text"
            msg = f"{made_by}: lines[{number}].{missing} is empty"
            raise BadAnswer(msg)
        lines.append(
            Line(
                speaker=number % len(outline.speakers),
                phrase=_phrase(turn),
                variations=[_phrase(said) for said in turn.variations[: outline.variation_count]],
            )
        )
    return Dialogue(
        title=_phrase(found.title),
        language=outline.language,
        level=outline.level,
        speakers=outline.speakers,
        lines=lines,
        words=words(read(source.text), outline.language),
        source=source.id,
        made_by=made_by,
    )


def _phrase(said: _Said) -> Phrase:
    return Phrase(text=said.text, reading=said.reading, translation=said.translation)
