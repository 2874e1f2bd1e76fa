"""The jobs, declared once for the service that adds them and the worker that runs them.

This module imports none of what the handlers need: a service that adds jobs loads neither fonts nor
a speech library. ``jobs.schema.json`` and ``jobs.d.ts`` say the same to TypeScript.
"""

from __future__ import annotations

from convolab_worker import Exponential, JobPolicy, JobType
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

# What each job has, unless its producer says otherwise; the worker takes it for jobs of Node, too.
POLICY: JobPolicy = {
    "attempts": 3,
    "backoff": Exponential(2, longest=60),
    "keep_completed": "1000/7d",  # long enough for the API to read a result
    "keep_failed": "30d",  # long enough for somebody to look
}

GENERATE_DIALOGUE = JobType(
    "generate-dialogue", DialogueRequest, DialogueResult, queue=DIALOGUE, **POLICY
)
GENERATE_AUDIO = JobType("generate-audio", AudioRequest, AudioResult, queue=AUDIO, **POLICY)
GENERATE_CARDS = JobType("generate", ImageRequest, ImageResult, queue=IMAGE, **POLICY)
GENERATE_SCRIPT_IMAGES = JobType(
    "generate-script-images", ImageRequest, ImageResult, queue=IMAGE, **POLICY
)
GENERATE_COURSE = JobType("generate-course", CourseRequest, CourseResult, queue=COURSE, **POLICY)
GENERATE_COURSE_AUDIO = JobType(
    "generate-audio", CourseRequest, CourseResult, queue=COURSE, **POLICY
)
