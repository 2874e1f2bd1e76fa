"""The worker in the background of a FastAPI service, which also enqueues and reports status.

Start it with ``python -m examples.embed_fastapi``; it needs ``REDIS_URL``, or a Redis on localhost.
``POST /courses`` with ``{"courseId": "fables-1", "language": "es"}`` answers with a job's id, and
``GET /jobs/ID`` with what has become of it. ``/docs`` describes both. ``HOST`` and ``PORT`` say
where it listens.

With ``CONVOLAB_WAKE_URL`` set there is no worker in here: the jobs wake the service that has one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from convolab_worker import JobClient, JobStatus, Settings, Worker
from convolab_worker.errors import JobNotFound, RedisUnavailable
from convolab_worker.integrations.starlette import job_client, jobs_lifespan
from examples.convolab.app import handlers
from examples.convolab.payloads import COURSE, DEFAULT_EPISODE, QUEUES


class Course(BaseModel):
    """What a request for a course may say; the handler's payload has the rest."""

    courseId: str  # noqa: N815 - the application's name
    episodeId: str = DEFAULT_EPISODE  # noqa: N815 - the application's name
    language: Literal["ja", "es", "de", "fr"] = "ja"
    jlptLevel: Literal["N5", "N4", "N3", "N2", "N1"] = "N5"  # noqa: N815 - likewise
    dialogueLength: int = 8  # noqa: N815 - likewise


class Enqueued(BaseModel):
    """The answer to a request for a course."""

    jobId: str  # noqa: N815 - the application's name


Client = Annotated[JobClient, Depends(job_client)]


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the service; nothing is connected before it starts."""
    chosen = settings or Settings.from_env(queues=QUEUES)
    workers = [Worker(handlers, chosen)] if chosen.wake_url is None else []
    # The client and the worker live as long as the service. Its end gives running jobs the
    # settings' grace, then gives them back to their queue.
    app = FastAPI(title="Courses", lifespan=jobs_lifespan(*workers, settings=chosen))
    app.add_api_route("/courses", add_course, methods=["POST"], status_code=202)
    app.add_api_route("/jobs/{job_id}", show_job)
    app.add_exception_handler(JobNotFound, _answer(404))
    app.add_exception_handler(RedisUnavailable, _answer(503))
    return app


async def add_course(course: Course, client: Client) -> Enqueued:
    """Enqueue a course, and answer with the job's id at once."""
    job_id = await client.enqueue("generate-course", course.model_dump(), queue=COURSE)
    return Enqueued(jobId=job_id)


async def show_job(job_id: str, client: Client) -> JobStatus:
    """Answer with the job as it is now: its state, progress, and result or reason."""
    return await client.status(job_id)


def _answer(status: int) -> Callable[[Request, Exception], JSONResponse]:
    """Make an exception's message the answer, with ``status``."""
    return lambda _request, error: JSONResponse({"error": str(error)}, status_code=status)


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(
        create_app(), host=os.environ.get("HOST", "127.0.0.1"), port=Settings.from_env().port
    )
