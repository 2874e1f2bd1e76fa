"""Courses on ``course-generation``, told apart by the job's name.

``generate-course`` makes everything: the dialogue; then two recordings and the pictures side by
side; then the lesson and its page. ``generate-audio`` makes the recordings of a course again.

A handler that asks for children is called again from its start when they are done, so each stage
looks first at what is there.
"""

from __future__ import annotations

import asyncio
from typing import Any

from convolab_worker import Child, HandlerRegistry, Job, errors
from examples.convolab.assembly import assemble
from examples.convolab.jobs import (
    GENERATE_AUDIO,
    GENERATE_CARDS,
    GENERATE_COURSE,
    GENERATE_COURSE_AUDIO,
    GENERATE_DIALOGUE,
    GENERATE_SCRIPT_IMAGES,
)
from examples.convolab.model import PauseMode
from examples.convolab.payloads import (
    AudioRequest,
    CourseRequest,
    CourseResult,
    DialogueRequest,
    ImageRequest,
)
from examples.convolab.store import Store

handlers = HandlerRegistry()

_SLOWER = 0.8
"""How fast the second recording is, for saying each line again, compared with the first."""


@handlers.course(GENERATE_COURSE, timeout=120)
async def generate_course(job: Job[CourseRequest]) -> CourseResult:
    """Make a whole course."""
    done = await job.children_results()
    if "dialogue" not in done:
        await job.progress(10)
        await job.enqueue_children([_dialogue(job.data)])
    await _parts(job, done, [*_recordings(job.data), *_pictures(job.data)], reached=40)
    return await _assembled(job, done)


@handlers.course(GENERATE_COURSE_AUDIO, timeout=120)
async def generate_course_audio(job: Job[CourseRequest]) -> CourseResult:
    """Make a course's recordings again, with its dialogue and pictures as they are."""
    done = await job.children_results()
    try:
        Store.from_env().dialogue(job.data.courseId)
    except LookupError as error:
        msg = f"no audio without a dialogue: {error}; run generate-course first"
        raise errors.UnrecoverableError(msg) from error
    await _parts(job, done, _recordings(job.data), reached=10)
    return await _assembled(job, done)


async def _parts(
    job: Job[CourseRequest], done: dict[str, Any], parts: list[Child], *, reached: int
) -> None:
    """Ask for those of ``parts`` that are not done; goes on only when all of them are."""
    missing = [part for part in parts if part.key not in done]
    if missing:
        await job.progress(reached)
        await job.enqueue_children(missing)


async def _assembled(job: Job[CourseRequest], done: dict[str, Any]) -> CourseResult:
    await job.progress(80)
    result = await asyncio.to_thread(
        assemble,
        Store.from_env(),
        job.data.courseId,
        listen=done["listen"],
        repeat=done["repeat"],
    )
    job.log.info("course.made", seconds=result["seconds"], pictures=len(result["pictures"]))
    await job.progress(100)
    return result


def _dialogue(course: CourseRequest) -> Child:
    data = DialogueRequest(
        episodeId=course.episodeId,
        dialogueId=course.courseId,
        language=course.language,
        jlptLevel=course.jlptLevel,
        dialogueLength=course.dialogueLength,
        variationCount=course.variationCount,
        speakers=course.speakers,
        userId=course.userId,
    )
    return Child(GENERATE_DIALOGUE, data, key="dialogue")


def _recordings(course: CourseRequest) -> list[Child]:
    """Return the two recordings: to listen to, and slower, to say each line again."""
    tracks: list[tuple[str, float, PauseMode]] = [
        ("listen", course.speed, "short"),
        ("repeat", max(0.5, course.speed * _SLOWER), "repeat"),
    ]
    return [
        Child(
            GENERATE_AUDIO,
            AudioRequest(
                episodeId=course.episodeId,
                dialogueId=course.courseId,
                speed=round(speed, 2),
                pauseMode=pause_mode,
                track=track,
                userId=course.userId,
            ),
            key=track,
        )
        for track, speed, pause_mode in tracks
    ]


def _pictures(course: CourseRequest) -> list[Child]:
    """Return the cards, and the cover; a course needs both."""
    data: ImageRequest = {"episodeId": course.episodeId, "dialogueId": course.courseId}
    cards: ImageRequest = {**data}
    if course.imageCount is not None:
        cards["imageCount"] = course.imageCount
    return [
        Child(GENERATE_CARDS, cards, key="cards"),
        Child(GENERATE_SCRIPT_IMAGES, data, key="script"),
    ]
