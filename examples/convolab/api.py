"""The service that adds courses, apart from the worker: it imports the jobs, and no handler.

Start it with ``python -m examples.convolab.api``, and a worker of ``examples.convolab.app``; both
need ``REDIS_URL``. ``POST /courses`` with ``{"courseId": "fables-1"}`` answers with a job's id, and
``GET /courses/ID`` waits for the course. ``HOST`` and ``PORT`` say where it listens.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from aiohttp import web

from convolab_worker import JobClient, Settings
from convolab_worker.errors import InvalidPayload, JobFailed, JobNotFound
from examples.convolab.jobs import GENERATE_COURSE

CLIENT = web.AppKey("client", JobClient)
_WAIT_SECONDS = 60.0


def create_app(settings: Settings | None = None) -> web.Application:
    """Make the service; nothing is connected before it starts."""
    app = web.Application()
    app.add_routes([web.post("/courses", add_course), web.get("/courses/{id}", course)])

    async def client(app: web.Application) -> AsyncIterator[None]:
        app[CLIENT] = JobClient(settings)
        yield
        await app[CLIENT].close()

    app.cleanup_ctx.append(client)
    return app


async def add_course(request: web.Request) -> web.Response:
    """Add a course, and answer with the job's id; what the handler would refuse is refused here."""
    try:
        wanted = GENERATE_COURSE.decode(await request.read())
    except InvalidPayload as error:
        return web.json_response({"error": str(error)}, status=422)
    job_id = await request.app[CLIENT].enqueue(GENERATE_COURSE, wanted)
    return web.json_response({"jobId": job_id}, status=202)


async def course(request: web.Request) -> web.Response:
    """Wait for a course, and answer with where everything is."""
    job_id = GENERATE_COURSE.job_id(request.match_info["id"])
    try:
        made = await request.app[CLIENT].result(job_id, timeout=_WAIT_SECONDS)
    except JobNotFound as error:
        return web.json_response({"error": str(error)}, status=404)
    except (JobFailed, TimeoutError) as error:
        return web.json_response({"error": str(error)}, status=500)
    return web.json_response({"page": made["page"], "seconds": made["seconds"]})


if __name__ == "__main__":
    host = os.environ.get("HOST", "127.0.0.1")
    web.run_app(create_app(), host=host, port=Settings.from_env().port)
