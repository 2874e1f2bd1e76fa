"""The worker in the background of an aiohttp service, which also enqueues and reports status.

Start it with ``python -m examples.embed_aiohttp``; it needs ``REDIS_URL``, or a Redis on localhost.
``POST /courses`` with ``{"courseId": "fables-1", "language": "es"}`` answers with a job's id, and
``GET /jobs/ID`` with what has become of it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from convolab_worker import JobClient, Settings, Worker
from convolab_worker.errors import JobNotFound, RedisUnavailable
from examples.convolab.app import handlers
from examples.convolab.payloads import COURSE, QUEUES

SETTINGS = web.AppKey("SETTINGS", Settings)
CLIENT = web.AppKey("CLIENT", JobClient)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(settings: Settings | None = None) -> web.Application:
    """Make the service; nothing is connected before it starts."""
    app = web.Application(middlewares=[problems])
    app[SETTINGS] = settings or Settings.from_env(queues=QUEUES)
    app.cleanup_ctx.append(background)
    app.router.add_post("/courses", add_course)
    app.router.add_get("/jobs/{id}", show_job)
    return app


async def background(app: web.Application) -> AsyncIterator[None]:
    """Run the worker, and keep a client open, as long as the service runs.

    Leaving gives running jobs the settings' grace, and then gives them back to their queue.
    """
    settings = app[SETTINGS]
    async with JobClient(settings) as client, Worker(handlers, settings):
        app[CLIENT] = client
        yield


async def add_course(request: web.Request) -> web.Response:
    """Enqueue a course, and answer with the job's id at once."""
    data = await request.json()
    if not isinstance(data, dict):
        raise web.HTTPBadRequest(text="expected a JSON object")
    job_id = await request.app[CLIENT].enqueue("generate-course", data, queue=COURSE)
    return web.json_response({"jobId": job_id}, status=202)


async def show_job(request: web.Request) -> web.Response:
    """Answer with the job as it is now: its state, progress, and result or reason."""
    status = await request.app[CLIENT].status(request.match_info["id"])
    return web.json_response(dataclasses.asdict(status))


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what can go wrong into the answer that says so."""
    try:
        return await handler(request)
    except json.JSONDecodeError as error:
        return web.json_response({"error": f"the body is not JSON: {error}"}, status=400)
    except JobNotFound as error:
        return web.json_response({"error": str(error)}, status=404)
    except RedisUnavailable as error:
        return web.json_response({"error": str(error)}, status=503)


if __name__ == "__main__":
    web.run_app(create_app(), port=8080)
