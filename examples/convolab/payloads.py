"""The jobs' data and results, with the application's field names.

All three ways to describe a payload are used: a msgspec.Struct where fields have ranges, a
dataclass, and a TypedDict.
"""

# ruff: noqa: N815 - the names of the fields are the application's
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from examples.convolab.model import Cue, Language, Level, PauseMode, Speaker

AUDIO, DIALOGUE = "audio-generation", "dialogue-generation"
IMAGE, COURSE = "image-generation", "course-generation"
QUEUES = (AUDIO, DIALOGUE, IMAGE, COURSE)
"""One queue for each kind, named as in the application."""

DEFAULT_EPISODE = "hare-and-tortoise"

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Speakers = Annotated[list[Speaker], Meta(min_length=2, max_length=4)]
Length = Annotated[int, Meta(ge=2, le=40)]
Variations = Annotated[int, Meta(ge=0, le=3)]


class DialogueRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A dialogue about the text ``episodeId``: so many lines, with so many variations each.

    It is saved as ``dialogueId``; without one, under the job's own id.
    """

    episodeId: str
    dialogueId: Id | None = None
    language: Language = "ja"
    jlptLevel: Level = "N5"
    dialogueLength: Length = 8
    variationCount: Variations = 2
    speakers: Speakers | None = None
    userId: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioRequest:
    """The dialogue ``dialogueId`` as speech; ``speed`` 1.0 is normal, 0.5 to 2.0 are possible.

    ``pauseMode`` "repeat" leaves time to say each line again. ``track`` names the file.
    """

    dialogueId: str
    episodeId: str | None = None
    speed: float = 1.0
    pauseMode: PauseMode = "short"
    track: str = "dialogue"
    userId: str | None = None


class ImageRequest(TypedDict):
    """Pictures for the dialogue ``dialogueId``: ``imageCount`` at most, all of them without it."""

    dialogueId: str
    episodeId: NotRequired[str]
    imageCount: NotRequired[int]
    userId: NotRequired[str]


class CourseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A course: everything for ``courseId``; or, by the job's name, its audio alone."""

    courseId: Id
    episodeId: str = DEFAULT_EPISODE
    language: Language = "ja"
    jlptLevel: Level = "N5"
    dialogueLength: Length = 8
    variationCount: Variations = 2
    speed: Annotated[float, Meta(ge=0.5, le=2.0)] = 1.0
    imageCount: Annotated[int, Meta(ge=1, le=20)] | None = None
    speakers: Speakers | None = None
    userId: str | None = None


class DialogueResult(TypedDict):
    """What was made, and by whom or what."""

    dialogueId: str
    lines: int
    exchanges: int
    madeBy: str
    file: str


class AudioResult(TypedDict):
    """The recording: its file, its length in seconds, when each line is heard."""

    file: str
    seconds: float
    cues: list[Cue]


class ImageResult(TypedDict):
    """The pictures, in order, and who or what made them."""

    files: list[str]
    madeBy: str


class CourseResult(TypedDict):
    """Where everything is, as paths from the output folder, and how long the lesson lasts."""

    courseId: str
    title: str
    page: str
    lesson: str
    dialogue: str
    course: str
    pictures: list[str]
    seconds: float
