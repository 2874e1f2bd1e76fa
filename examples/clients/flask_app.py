"""A Flask app that adds jobs and says what became of them.

    gunicorn --preload --workers 2 --threads 8 examples.clients.flask_app:app

One client serves all threads, and every process that gunicorn forks from the one that made it.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, request

from convolab_worker import SyncJobClient
from convolab_worker.errors import InvalidPayload, JobNotFound, JobNotRunning, RedisUnavailable
from examples.clients.jobs import SPEAK

app = Flask(__name__)
jobs = SyncJobClient(queues=("speeches",))
Answer = tuple[dict[str, Any], int]


@app.post("/speeches")
def add() -> Answer:
    """Add a job; with an Idempotency-Key, once however often the request comes."""
    line: Any = request.get_json()  # which the client checks, and refuses if it does not fit
    job_id = jobs.enqueue(SPEAK, line, job_id=request.headers.get("Idempotency-Key"))
    return {"id": job_id, "existed": job_id.existed}, 202


@app.get("/speeches/<job_id>")
def tell(job_id: str) -> Answer:
    """Say how the job is."""
    job = jobs.status(job_id)
    return {"state": job.state, "progress": job.progress, "result": job.result}, 200


@app.delete("/speeches/<job_id>")
def cancel(job_id: str) -> Answer:
    """End the job, wherever it is."""
    return {"ended": jobs.cancel(job_id, timeout=10)}, 200


@app.errorhandler(InvalidPayload)
def refuse(error: InvalidPayload) -> Answer:
    """Answer a request whose data the handler would refuse."""
    return {"error": str(error)}, 422


@app.errorhandler(JobNotFound)
def not_found(error: JobNotFound) -> Answer:
    """Answer a question for a job that is not there."""
    return {"error": str(error)}, 404


@app.errorhandler(JobNotRunning)
def ended(error: JobNotRunning) -> Answer:
    """Answer a request to end what has ended."""
    return {"error": str(error)}, 409


@app.errorhandler(RedisUnavailable)
def unavailable(error: RedisUnavailable) -> Answer:
    """Answer while Redis is away; the app has started without it, and goes on when it is back."""
    return {"error": str(error)}, 503
