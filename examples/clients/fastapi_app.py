"""A FastAPI app that adds jobs, from ``async def`` and from ``def`` endpoints.

    uvicorn examples.clients.fastapi_app:app

FastAPI calls ``def`` endpoints in threads: they have a SyncJobClient. A JobClient belongs to the
event loop of the ``async def`` endpoints. Neither needs Redis to be there when the app starts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request

from convolab_worker import JobClient, Settings, SyncJobClient
from convolab_worker.errors import JobNotFound
from examples.clients.jobs import SPEAK, Line


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the clients for as long as the app lives."""
    settings = getattr(app.state, "settings", None) or Settings.from_env(queues=("speeches",))
    async with JobClient(settings) as client:
        with SyncJobClient(settings) as sync_client:
            app.state.jobs, app.state.sync_jobs = client, sync_client
            yield


app = FastAPI(lifespan=lifespan)


def _client(request: Request) -> JobClient:
    client: JobClient = request.app.state.jobs
    return client


def _sync_client(request: Request) -> SyncJobClient:
    client: SyncJobClient = request.app.state.sync_jobs
    return client


Jobs = Annotated[JobClient, Depends(_client)]
SyncJobs = Annotated[SyncJobClient, Depends(_sync_client)]


@app.post("/speeches", status_code=202)
async def add(line: Line, jobs: Jobs) -> dict[str, Any]:
    """Add a job, and answer at once."""
    return {"id": await jobs.enqueue(SPEAK, line)}


@app.post("/speeches/spoken")
async def speak(line: Line, jobs: Jobs) -> dict[str, float]:
    """Add a job, and answer with its result."""
    speech = await jobs.result(await jobs.enqueue(SPEAK, line), timeout=10)
    return {"seconds": speech.seconds}


@app.post("/speeches/from-a-thread", status_code=202)
def add_from_a_thread(line: Line, jobs: SyncJobs) -> dict[str, Any]:
    """Add a job where the endpoint blocks on something else, too."""
    return {"id": jobs.enqueue(SPEAK, line)}


@app.get("/speeches/{job_id}")
def tell(job_id: str, jobs: SyncJobs) -> dict[str, Any]:
    """Say how the job is."""
    try:
        job = jobs.status(job_id)
    except JobNotFound as error:
        raise HTTPException(404, str(error)) from error
    return {"state": job.state, "result": job.result}
