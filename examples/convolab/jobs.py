"""The jobs, declared once for the service that adds them and the worker that runs them.

This module imports none of what the handlers need: a service that adds jobs loads neither fonts nor
a speech library. ``jobs.schema.json`` and ``jobs.d.ts`` say the same to TypeScript.
"""

from __future__ import annotations

from convolab_worker import JobType
from examples.convolab.payloads import (
    AUDIO,
    COURSE,
    DIALOGUE,
    IMAGE,
    AudioRequest,
    AudioResult,
    CourseRequest,
    CourseResult,
    DialogueRequest,
    DialogueResult,
    ImageRequest,
    ImageResult,
)

GENERATE_DIALOGUE = JobType(
    "generate-dialogue", DialogueRequest, DialogueResult, queue=DIALOGUE, attempts=3
)
GENERATE_AUDIO = JobType("generate-audio", AudioRequest, AudioResult, queue=AUDIO, attempts=3)
GENERATE_CARDS = JobType("generate", ImageRequest, ImageResult, queue=IMAGE, attempts=3)
GENERATE_SCRIPT_IMAGES = JobType(
    "generate-script-images", ImageRequest, ImageResult, queue=IMAGE, attempts=3
)
GENERATE_COURSE = JobType("generate-course", CourseRequest, CourseResult, queue=COURSE)
GENERATE_COURSE_AUDIO = JobType("generate-audio", CourseRequest, CourseResult, queue=COURSE)
