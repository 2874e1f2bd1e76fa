"""The page of a course: everything on one HTML file with relative links, no network needed."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from string import Template

from examples.convolab.lesson import Course
from examples.convolab.model import LANGUAGE_NAMES, Line, Phrase
from examples.convolab.sources import source_text

_VOICES = "abcd"


def render(course: Course) -> str:
    """Return the page as HTML; every text in it is escaped."""
    dialogue = course.dialogue
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    cues = [
        {"line": cue.line, "start": cue.start, "end": cue.end}
        for chapter in course.chapters
        for cue in chapter.cues
    ]
    return template.substitute(
        title=escape(dialogue.title.text),
        translation=escape(dialogue.title.translation),
        language=dialogue.language,
        font_face=_font_face(course),
        cover=_picture(course.cover, f"Cover: {dialogue.title.translation}"),
        tags=_tags(course),
        switches=_switches(course),
        exchanges="\n".join(_exchange(course, at) for at in range(len(dialogue.exchanges()))),
        words=_words(course),
        pages=_pages(course),
        text=escape(course.text),
        provenance=_provenance(course),
        lesson=escape(course.lesson),
        chapters="".join(
            f'<button type="button">{escape(c.title)}</button>' for c in course.chapters
        ),
        cues=json.dumps(cues),
        starts=json.dumps([chapter.start for chapter in course.chapters]),
    )


def _font_face(course: Course) -> str:
    """Name the typeface beside the page; browsers fetch it only where no other has the glyphs."""
    if course.font is None:
        return ""
    source = f'url("{escape(course.font)}") format("opentype")'
    return f"@font-face {{ font-family: Lesson; font-display: block; src: {source}; }}"


def _picture(path: str | None, description: str) -> str:
    if path is None:
        return ""
    return f'<img src="{escape(path)}" alt="{escape(description)}" width="1200" height="800">'


def _tags(course: Course) -> str:
    minutes, seconds = divmod(round(course.seconds), 60)
    tags = [
        LANGUAGE_NAMES[course.dialogue.language],
        course.level,
        f"{len(course.dialogue.lines)} lines",
        f"{minutes}:{seconds:02} min",
    ]
    names = " · ".join(speaker.name for speaker in course.dialogue.speakers)
    return (
        "".join(f"<li>{escape(tag)}</li>" for tag in tags)
        + f'<li lang="{course.dialogue.language}">{escape(names)}</li>'
    )


def _switches(course: Course) -> str:
    names = {"english": "English", "more": "Other ways to say it"}
    if course.dialogue.language == "ja":
        names = {"reading": "Reading", **names}
    return "".join(
        f'<label><input type="checkbox" name="{name}" checked>{label}</label>'
        for name, label in names.items()
    )


def _exchange(course: Course, at: int) -> str:
    """Return an exchange: its card, and its lines as buttons that play them."""
    lines = course.dialogue.exchanges()[at]
    card = course.cards[at] if at < len(course.cards) else None
    said = " ".join(line.phrase.translation for line in lines)
    shown = "".join(_line(course, line) for line in lines)
    return f'<article class="exchange">{_picture(card, said)}<div>{shown}</div></article>'


def _line(course: Course, line: Line) -> str:
    voice = _VOICES[line.speaker % len(_VOICES)]
    name = escape(course.dialogue.speakers[line.speaker].name)
    language = course.dialogue.language
    button = (
        f'<button type="button" class="line" style="--voice: var(--{voice})">'
        f'<b lang="{language}">{name}</b>{_spans(line.phrase, language)}</button>'
    )
    if not line.variations:
        return button
    ways = "".join(f"<li>{_spans(phrase, language)}</li>" for phrase in line.variations)
    return f'{button}<details class="more"><summary>Other ways</summary><ul>{ways}</ul></details>'


def _spans(phrase: Phrase, language: str) -> str:
    reading = ""
    if phrase.reading:
        reading = f'<span class="reading" lang="{language}">{escape(phrase.reading)}</span>'
    return (
        f'{reading}<span class="text" lang="{language}">{escape(phrase.text)}</span>'
        f'<span class="english">{escape(phrase.translation)}</span>'
    )


def _words(course: Course) -> str:
    language = course.dialogue.language
    return "".join(
        f'<tr><td lang="{language}">{escape(word.text)}</td>'
        + (f'<td lang="{language}">{escape(word.reading)}</td>' if word.reading else "")
        + f"<td>{escape(word.meaning)}</td></tr>"
        for word in course.dialogue.words
    )


def _pages(course: Course) -> str:
    sentences = source_text(course.dialogue.source).sentences()
    return "".join(
        _picture(page, sentence) for page, sentence in zip(course.pages, sentences, strict=False)
    )


def _provenance(course: Course) -> str:
    return escape(
        f"After a fable by {course.author}, English by {course.translator} (public domain)."
        f" Dialogue: {course.dialogue.made_by}. Speech: eSpeak NG."
    )
