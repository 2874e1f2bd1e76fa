"""The last stage of a course: its parts become ``lesson.wav``, ``course.json`` and a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from examples.convolab.fonts import font_licence, font_path
from examples.convolab.lesson import Chapter, Course
from examples.convolab.model import Cue, Recording, level_label
from examples.convolab.page import render
from examples.convolab.payloads import CourseResult
from examples.convolab.sources import source_text
from examples.convolab.speech import Track, joined, load
from examples.convolab.store import Store

_BETWEEN = 1.5
_TITLES = {"listen": "Listen", "repeat": "Listen and repeat"}


def assemble(
    store: Store, course_id: str, *, listen: Mapping[str, Any], repeat: Mapping[str, Any]
) -> CourseResult:
    """Join the recordings and write the course and its page; the arguments are the audio results.

    LookupError for a file that is not there.
    """
    dialogue = store.dialogue(course_id)
    parts = {"listen": _recording(listen, "listen"), "repeat": _recording(repeat, "repeat")}
    tracks = [load(_content(store, part.file), part.cues) for part in parts.values()]
    lesson, starts = joined(tracks, gap=_BETWEEN)
    source = source_text(dialogue.source)
    script = _pictures(store, course_id, "script")
    course = Course(
        course_id=course_id,
        level=level_label(dialogue.level, dialogue.language),
        dialogue=dialogue,
        author=source.author,
        translator=source.translator,
        text=source.text,
        lesson="lesson.wav",
        seconds=round(lesson.seconds, 3),
        chapters=[
            _chapter(part, track, start)
            for part, track, start in zip(parts.values(), tracks, starts, strict=True)
        ],
        cover=script[0] if script else None,
        cards=_pictures(store, course_id, "cards"),
        pages=script[1:],
        font=_copied_font(store, course_id) if dialogue.language == "ja" else None,
    )
    written = {
        "lesson": store.write(course_id, course.lesson, lesson.wav()),
        "course": store.write(course_id, "course.json", _json(course)),
        "page": store.write(course_id, "index.html", render(course).encode()),
    }
    return {
        "courseId": course_id,
        "title": dialogue.title.text,
        "page": written["page"],
        "lesson": written["lesson"],
        "dialogue": f"{course_id}/dialogue.json",
        "course": written["course"],
        "pictures": [f"{course_id}/{name}" for name in (*script, *course.cards)],
        "seconds": course.seconds,
    }


def _recording(result: Mapping[str, Any], track: str) -> Recording:
    return msgspec.convert({**result, "title": _TITLES[track]}, Recording)


def _content(store: Store, file: str) -> bytes:
    owner, _, name = file.partition("/")
    return store.read(owner, name)


def _chapter(part: Recording, track: Track, start: float) -> Chapter:
    cues = [
        Cue(line=cue.line, start=round(cue.start + start, 3), end=round(cue.end + start, 3))
        for cue in part.cues
    ]
    return Chapter(title=part.title, start=start, end=round(start + track.seconds, 3), cues=cues)


def _pictures(store: Store, course_id: str, folder: str) -> list[str]:
    """Return the pictures in a folder of the course, in order, as paths from its own folder."""
    return [f"{folder}/{path.name}" for path in sorted(store.path(course_id, folder).glob("*.png"))]


def _copied_font(store: Store, course_id: str) -> str:
    """Put the typeface beside the page, for browsers on systems that have no Japanese one."""
    name = "NotoSansJP-Regular.otf"
    if not store.path(course_id, name).exists():
        store.write(course_id, "NotoSansJP-LICENSE.txt", font_licence().encode())
        store.write(course_id, name, font_path().read_bytes())
    return name


def _json(course: Course) -> bytes:
    return msgspec.json.format(msgspec.json.encode(course), indent=2)
