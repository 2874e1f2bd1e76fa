"""The example services, with the worker in their background, and the demo, on a real server."""

from __future__ import annotations

import base64
import json
import wave
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from convolab_worker import Settings
from convolab_worker.errors import JobFailed
from convolab_worker.testing import RunningWorker, assert_enqueued, drained, worker_fixture
from examples import embed_aiohttp, embed_fastapi
from examples.convolab.app import handlers
from examples.convolab.cards import exchange_card
from examples.convolab.composer import compose
from examples.convolab.model import DEFAULT_SPEAKERS, Outline
from examples.convolab.payloads import AUDIO, COURSE, DIALOGUE, IMAGE, QUEUES
from examples.convolab.sources import source_text
from tests.support.commands import start_python
from tests.support.markdown import ROOT
from tests.support.service import says, service

ENDED = 60.0
"""Seconds after which a job that has not ended is taken to be stuck."""


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let handlers write to a folder of the test's own, offline."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_IMAGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LESSON_OUTPUT", str(tmp_path))
    return tmp_path


worker = worker_fixture(handlers)
queues = worker_fixture(queues=QUEUES)


@pytest.fixture
def settings(queues: RunningWorker) -> Settings:
    """Settings for the application's queues, where nothing runs but what the service runs."""
    return queues.settings


@pytest.mark.asyncio
async def test_the_aiohttp_service_makes_the_course_that_was_posted(
    settings: Settings, output: Path
) -> None:
    """A course posted to the aiohttp service is made by the worker in its background."""
    app = embed_aiohttp.create_app(settings)

    async with TestClient(TestServer(app)) as service:
        posted = await service.post("/courses", json={"courseId": "a1", "dialogueLength": 4})
        job_id = (await posted.json())["jobId"]
        await app[embed_aiohttp.CLIENT].result(job_id, timeout=ENDED)
        shown: ClientResponse = await service.get(f"/jobs/{job_id}")
        job = await shown.json()

    assert posted.status == 202
    assert_enqueued("generate-course", data={"courseId": "a1", "dialogueLength": 4}, queue=COURSE)
    assert (job["state"], job["progress"]) == ("completed", 100)
    assert (output / job["result"]["page"]).is_file()


@pytest.mark.asyncio
async def test_the_aiohttp_service_says_what_is_wrong(settings: Settings, output: Path) -> None:
    """A body that is not JSON gets 400, a job that is not there 404, each with its reason."""
    del output
    app = embed_aiohttp.create_app(settings)

    async with TestClient(TestServer(app)) as service:
        broken = await service.post("/courses", data="{")
        absent = await service.get("/jobs/nothing")
        reasons = [(await answer.json())["error"] for answer in (broken, absent)]

    assert (broken.status, absent.status) == (400, 404)
    assert "not JSON" in reasons[0]
    assert "'nothing'" in reasons[1]


@pytest.mark.asyncio
async def test_the_fastapi_service_makes_the_course_that_was_posted(
    settings: Settings, output: Path
) -> None:
    """A course posted to the FastAPI service is made by the worker in its background."""
    app = embed_fastapi.create_app(settings)
    transport = httpx.ASGITransport(app)

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as service,
    ):
        body = {"courseId": "f1", "language": "es", "dialogueLength": 4}
        posted = await service.post("/courses", json=body)
        job_id = posted.json()["jobId"]
        await app.state.job_client.result(job_id, timeout=ENDED)
        job = (await service.get(f"/jobs/{job_id}")).json()
        absent = await service.get("/jobs/nothing")
        invalid = await service.post("/courses", json={"courseId": "f2", "language": "xx"})

    assert posted.status_code == 202
    assert (job["state"], job["progress"]) == ("completed", 100)
    assert (output / job["result"]["page"]).is_file()
    assert absent.status_code == 404
    assert invalid.status_code == 422


@pytest.mark.asyncio
async def test_the_fastapi_service_wakes_a_worker_that_is_elsewhere(settings: Settings) -> None:
    """With a wake address the service has no worker in it, and its jobs wake the one that has."""
    async with service(says({"status": "drained"})) as there:
        app = embed_fastapi.create_app(settings.replace(wake_url=there.url))
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as api,
        ):
            posted = await api.post("/courses", json={"courseId": "w1"})
            await there.asked(1)
            job = (await api.get(f"/jobs/{posted.json()['jobId']}")).json()

    assert job["state"] == "waiting"


@pytest.mark.asyncio
async def test_an_audio_only_run_makes_the_recordings_again(
    worker: RunningWorker, output: Path
) -> None:
    """On the course queue, the name generate-audio makes the lesson again at another speed."""
    course = {"courseId": "c1", "language": "de", "dialogueLength": 4}

    first = await worker.run("generate-course", course, queue=COURSE, timeout=ENDED)
    again = {**course, "speed": 0.6}
    second = await worker.run("generate-audio", again, queue=COURSE, timeout=ENDED)
    await drained()

    assert second["seconds"] > first["seconds"] * 1.2
    assert second["pictures"] == first["pictures"]
    with wave.open(str(output / second["lesson"])) as lesson:
        assert lesson.getnframes() / lesson.getframerate() == pytest.approx(second["seconds"], 0.01)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "queue", "data", "reason"),
    [
        ("generate-audio", COURSE, {"courseId": "none"}, "run generate-course first"),
        ("generate-course", COURSE, {"courseId": "x", "episodeId": "?"}, "hare-and-tortoise"),
        ("generate-course", COURSE, {"courseId": "../x"}, "courseId"),
        ("generate-dialogue", DIALOGUE, {"episodeId": "fox-and-grapes", "dialogueLength": 40},
         "expected at most"),
        ("generate-audio", AUDIO, {"dialogueId": "none"}, "none has no dialogue.json"),
        ("generate-audio", AUDIO, {"dialogueId": "none", "speed": 9}, "expected 0.5 to 2.0"),
        ("generate", IMAGE, {"dialogueId": "../../etc"}, "expected 1 to 64 letters"),
    ],
)  # fmt: skip
async def test_a_job_that_can_not_be_done_fails_with_its_reason(
    worker: RunningWorker, output: Path, name: str, queue: str, data: dict[str, Any], reason: str
) -> None:
    """What can't be done fails at the first attempt, and a course with its part's reason."""
    del output

    with pytest.raises(JobFailed, match=reason):
        await worker.run(name, data, queue=queue, attempts=3, timeout=ENDED)


@pytest.mark.asyncio
async def test_an_endpoint_is_used_when_its_variables_are_set(
    worker: RunningWorker, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With OpenAI's variables set, its interface writes the dialogue and makes the pictures."""
    source, speakers = source_text("fox-and-grapes"), DEFAULT_SPEAKERS["fr"]
    outline = Outline(language="fr", level="N3", length=2, variation_count=0, speakers=speakers)
    model = compose(source, outline)
    picture = exchange_card(model, 0)
    asked: list[tuple[str, str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.path, request.headers["Authorization"], await request.json()))
        if request.path.endswith("images/generations"):
            encoded = base64.b64encode(picture).decode()
            return web.json_response({"data": [{"b64_json": encoded}]})
        lines = [{"text": f"Ligne {n}.", "translation": f"Line {n}."} for n in range(2)]
        content = {"title": {"text": "Le renard", "translation": "The fox"}, "lines": lines}
        message = {"role": "assistant", "content": json.dumps(content)}
        return web.json_response({"choices": [{"message": message}]})

    service = web.Application()
    service.router.add_post("/v1/chat/completions", answer)
    service.router.add_post("/v1/images/generations", answer)
    async with TestServer(service) as running:
        monkeypatch.setenv("OPENAI_BASE_URL", str(running.make_url("/v1")))
        monkeypatch.setenv("OPENAI_API_KEY", "made-up")
        monkeypatch.setenv("OPENAI_MODEL", "writer")
        monkeypatch.setenv("OPENAI_IMAGE_MODEL", "painter")
        data = {"dialogueId": "d1", "language": "fr", "dialogueLength": 2, "variationCount": 0}
        written = {"episodeId": "fox-and-grapes", **data}
        dialogue = await worker.run("generate-dialogue", written, queue=DIALOGUE, timeout=ENDED)
        cards = await worker.run("generate", {"dialogueId": "d1"}, queue=IMAGE, timeout=ENDED)

    assert dialogue["madeBy"] == "writer"
    assert "Ligne 1." in (output / dialogue["file"]).read_text(encoding="utf-8")
    assert cards["madeBy"] == "painter"
    assert (output / cards["files"][0]).read_bytes().startswith(b"\x89PNG")
    assert {key for _, key, _ in asked} == {"Bearer made-up"}
    assert "Line 0." in asked[1][2]["prompt"]


@pytest.mark.asyncio
async def test_the_demo_ends_with_its_files_and_again(tmp_path: Path) -> None:
    """The demo exits 0 twice over, and the files that it names are there."""
    arguments = ("--out", str(tmp_path), "--language", "es", "--lines", "4")

    runs = [await _demo(*arguments) for _ in range(2)]

    for code, out, errors in runs:
        assert code == 0, errors
        named = [Path(line.strip()) for line in out.splitlines() if line.startswith("  /")]
        assert {path.name for path in named} >= {"index.html", "lesson.wav", "course.json"}
        assert all(path.stat().st_size > 0 for path in named)
        assert "generate-audio  repeat" in out
        assert "100 %  completed" in out


@pytest.mark.asyncio
async def test_the_demo_that_fails_says_why(tmp_path: Path) -> None:
    """A demo that can't make its course exits 1 with the course's reason."""
    arguments = ("--out", str(tmp_path), "--episode", "fox-and-grapes", "--lines", "40")

    code, _, errors = await _demo(*arguments)

    assert code == 1
    assert "dialogueLength asks for 20 exchanges" in errors


async def _demo(*arguments: str) -> tuple[int, str, str]:
    """Run the demo as ``make demo`` does; return its exit code, output and errors."""
    demo = await start_python("-m", "examples.convolab.demo", *arguments, cwd=ROOT)
    return await demo.ended(ENDED)
