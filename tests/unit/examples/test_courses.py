"""Courses: what is put together from recordings and pictures, and the page that shows it."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from convolab_worker.errors import InvalidPayload, RateLimited, UnrecoverableError
from convolab_worker.testing import run_handler
from examples.convolab.app import handlers
from examples.convolab.assembly import assemble
from examples.convolab.composer import compose
from examples.convolab.endpoint import Endpoint, EndpointError, refusal
from examples.convolab.live import Live
from examples.convolab.model import (
    DEFAULT_SPEAKERS,
    Dialogue,
    Language,
    Outline,
    PauseMode,
    Speaker,
)
from examples.convolab.payloads import CourseResult
from examples.convolab.sources import source_text
from examples.convolab.speech import record
from examples.convolab.store import Store
from examples.convolab.watching import QueueEvent


class Page(HTMLParser):
    """Collects what a page links to and says."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href"} and value]


def made(
    store: Store, language: Language = "ja", speakers: list[Speaker] | None = None
) -> tuple[Dialogue, CourseResult]:
    """Make a course of four lines with two files that are not pictures."""
    dialogue = compose(
        source_text("fox-and-grapes"),
        Outline(
            language=language,
            level="N5",
            length=4,
            variation_count=1,
            speakers=speakers or DEFAULT_SPEAKERS[language],
        ),
    )
    store.save_dialogue("c1", dialogue)
    for picture in ("script/01.png", "script/02.png", "cards/01.png", "cards/02.png"):
        store.write("c1", picture, b"a picture")
    modes: dict[str, PauseMode] = {"listen": "short", "repeat": "repeat"}
    results: dict[str, Any] = {}
    for name, mode in modes.items():
        track = record(dialogue, speed=1.0, pause_mode=mode)
        file = store.write("c1", f"audio/{name}.wav", track.wav())
        cues = msgspec.to_builtins(track.cues)
        results[name] = {"file": file, "seconds": track.seconds, "cues": cues}
    return dialogue, assemble(store, "c1", **results)


def test_a_course_has_its_lesson_its_data_and_its_page(tmp_path: Path) -> None:
    """The lesson is as long as it says, and course.json tells when each line is heard in it."""
    _, result = made(Store(tmp_path))

    with wave.open(str(tmp_path / result["lesson"])) as lesson:
        seconds = lesson.getnframes() / lesson.getframerate()
    course = json.loads((tmp_path / result["course"]).read_text(encoding="utf-8"))

    assert seconds == pytest.approx(result["seconds"], abs=0.01)
    assert [len(chapter["cues"]) for chapter in course["chapters"]] == [4, 4]
    assert course["chapters"][1]["end"] == pytest.approx(seconds, abs=0.01)
    assert [Path(name).parent.name for name in result["pictures"]] == ["script"] * 2 + ["cards"] * 2


@pytest.mark.parametrize("language", ["ja", "de"])
def test_the_page_links_only_to_files_beside_it(tmp_path: Path, language: Language) -> None:
    """Every link of the page is relative and leads to a file; no network is needed."""
    _, result = made(Store(tmp_path), language)
    path = tmp_path / result["page"]
    html = path.read_text(encoding="utf-8")

    links = Page(html).links + re.findall(r'url\("([^"]+)"\)', html)

    assert len(links) == 5 + (language == "ja")
    assert all((path.parent / link).is_file() for link in links)
    assert not re.search(r"https?://", html)


def test_the_page_shows_every_line_and_word(tmp_path: Path) -> None:
    """Lines, readings, translations, variations and words are all on the page."""
    dialogue, result = made(Store(tmp_path))
    html = (tmp_path / result["page"]).read_text(encoding="utf-8")

    for line in dialogue.lines:
        for phrase in (line.phrase, *line.variations):
            assert phrase.text in html
            assert (phrase.reading or "") in html
    assert all(word.meaning in html for word in dialogue.words)


def test_what_users_write_is_escaped_on_the_page(tmp_path: Path) -> None:
    """A speaker's name can't put an element on the page."""
    name = "<img src=x onerror=alert(1)>$title"
    speakers = [Speaker(name=name), Speaker(name="B")]

    _, result = made(Store(tmp_path), "es", speakers)

    page = Page((tmp_path / result["page"]).read_text(encoding="utf-8"))
    assert "x" not in page.links
    assert page.tags.count("script") == 1


def test_the_typefaces_licence_goes_with_it(tmp_path: Path) -> None:
    """Beside the copied typeface is its licence."""
    made(Store(tmp_path))

    assert "SIL Open Font License" in (tmp_path / "c1" / "NotoSansJP-LICENSE.txt").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("owner", ["..", "../x", "a/b", "", ".hidden", "x" * 65])
def test_an_id_can_not_lead_out_of_the_folder(tmp_path: Path, owner: str) -> None:
    """Ids become names of folders, so they are checked."""
    with pytest.raises(ValueError, match="expected 1 to 64 letters"):
        Store(tmp_path).path(owner, "x")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Writing replaces the file at once, and leaves nothing beside it."""
    store = Store(tmp_path)

    store.write("a", "f.txt", b"one")
    store.write("a", "f.txt", b"two")

    assert [path.name for path in (tmp_path / "a").iterdir()] == ["f.txt"]
    assert store.read("a", "f.txt") == b"two"


def test_pictures_of_a_longer_run_before_go(tmp_path: Path) -> None:
    """A shorter dialogue leaves no card of a longer one behind."""
    store = Store(tmp_path)
    for number in (1, 2, 3):
        store.write("a", f"cards/0{number}.png", b"x")

    store.keep_only("a", "cards", {"01.png"})

    assert [path.name for path in (tmp_path / "a" / "cards").iterdir()] == ["01.png"]


def test_every_kind_has_its_handlers_on_its_queue() -> None:
    """One name means different things on different queues."""
    found = {(h.queue, name): h.kind for h in handlers for name in h.names}

    assert found == {
        ("dialogue-generation", "generate-dialogue"): "dialogue",
        ("audio-generation", "generate-audio"): "audio",
        ("image-generation", "generate"): "image",
        ("image-generation", "generate-script-images"): "image",
        ("course-generation", "generate-course"): "course",
        ("course-generation", "generate-audio"): "course",
    }


@pytest.mark.parametrize(
    ("queue", "name", "data", "reason"),
    [
        ("course-generation", "generate-course", {}, "courseId"),
        ("course-generation", "generate-course", {"courseId": "a", "speed": 3}, "speed"),
        ("course-generation", "generate-course", {"courseId": "a", "speakers": [{"name": "A"}]},
         "speakers"),
        ("dialogue-generation", "generate-dialogue", {"episodeId": "a", "jlptLevel": "N6"},
         "jlptLevel"),
        ("dialogue-generation", "generate-dialogue", {"episodeId": "a", "dialogueLength": 1},
         "dialogueLength"),
        ("audio-generation", "generate-audio", {"dialogueId": "a", "pauseMode": "long"},
         "pauseMode"),
        ("image-generation", "generate", {"dialogueId": "a", "imageCount": "3"}, "imageCount"),
    ],
)  # fmt: skip
@pytest.mark.asyncio
async def test_a_payload_of_the_wrong_shape_is_refused_by_field(
    queue: str, name: str, data: dict[str, Any], reason: str
) -> None:
    """The reason names the field that is wrong."""
    with pytest.raises(InvalidPayload, match=reason):
        await run_handler(handlers, name, data, queue=queue)


@pytest.mark.asyncio
async def test_a_course_asks_for_its_parts_in_two_stages() -> None:
    """First the dialogue; when that is there, two recordings and the pictures side by side."""
    course = {"courseId": "c1", "speed": 1.0, "imageCount": 2}

    first = await run_handler(handlers, "generate-course", course)
    second = await run_handler(
        handlers, "generate-course", course, children_results={"dialogue": {}}
    )

    assert [(child.key, child.queue) for child in first.children] == [
        ("dialogue", "dialogue-generation")
    ]
    assert [child.key for child in second.children] == ["listen", "repeat", "cards", "script"]
    assert [child.data.speed for child in second.children[:2]] == [1.0, 0.8]
    assert (first.progress, second.progress) == ([10], [40])


@pytest.mark.asyncio
async def test_a_recording_is_made_with_its_progress_and_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler of audio, in its thread, from its payload to its file."""
    monkeypatch.setenv("LESSON_OUTPUT", str(tmp_path))
    made(Store(tmp_path), "de")

    run = await run_handler(
        handlers, "generate-audio", {"dialogueId": "c1"}, queue="audio-generation"
    )

    assert (tmp_path / run.result["file"]).is_file()
    assert run.progress == [10, 30, 50, 70, 90, 100]
    assert run.logs == [f"[info] audio.made seconds={round(run.result['seconds'], 1)} speed=1.0"]


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, None),
        ({"OPENAI_API_KEY": "secret"}, None),
        ({"OPENAI_MODEL": "m"}, None),
        ({"OPENAI_MODEL": "m", "OPENAI_API_KEY": "secret"}, "https://api.openai.com/v1"),
        ({"OPENAI_MODEL": "m", "OPENAI_BASE_URL": "http://here/v1/"}, "http://here/v1"),
    ],
)
def test_an_endpoint_is_used_only_when_it_is_set_up(
    environ: dict[str, str], url: str | None
) -> None:
    """It takes a model, and a key or an address; the key is never shown."""
    endpoint = Endpoint.from_env(environ, "OPENAI_MODEL")

    assert (endpoint and endpoint.base_url) == url
    assert "secret" not in repr(endpoint)


def test_what_an_endpoint_refuses_is_retried_when_that_can_help() -> None:
    """429 limits the queue as told; a failure uses an attempt up; a wrong key fails for good."""
    busy = refusal(429, {"Retry-After": "7"}, "")
    broken = refusal(503, {}, "down")
    wrong = refusal(401, {}, "bad key")

    assert isinstance(busy, RateLimited)
    assert busy.delay == 7
    assert isinstance(broken, EndpointError)
    assert isinstance(wrong, UnrecoverableError)
    assert "401: bad key" in str(wrong)


class Service:
    """A service with OpenAI's interface that counts what it was asked for, and then refuses."""

    def __init__(self, takes: int, answer: Any) -> None:
        self.takes = takes
        self.answer = answer
        self.keys: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        """Answer, or fail as a service does that is down."""
        self.keys.append(request.headers["Idempotency-Key"])
        if self.takes == 0:
            return web.Response(status=503, text="down")
        self.takes -= 1
        return web.json_response(self.answer)

    @asynccontextmanager
    async def running(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
        """Serve, as the handlers' service."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self.handle)
        async with TestServer(app) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", str(server.make_url("/v1")))
            monkeypatch.setenv("OPENAI_IMAGE_MODEL", "painter")
            yield


@pytest.mark.asyncio
async def test_a_picture_that_was_paid_for_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt got one of two; the second asks for the other, with the key it had."""
    monkeypatch.setenv("LESSON_OUTPUT", str(tmp_path))
    made(Store(tmp_path), "de")
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    answer = {"data": [{"b64_json": base64.b64encode(picture.getvalue()).decode()}]}
    service = Service(1, answer)
    run = functools.partial(
        run_handler, handlers, "generate", {"dialogueId": "c1", "imageCount": 2}, job_id="cards"
    )

    async with service.running(monkeypatch):
        first = await run(raises=False)
        service.takes = 9
        second = await run(attempt=2, steps=first.steps)

    assert (first.outcome, [*first.steps]) == ("retried", ["cards/01.png"])
    assert len(second.result["files"]) == 2
    assert all((tmp_path / file).is_file() for file in second.result["files"])
    assert len(service.keys) == 3
    assert service.keys[1] == service.keys[2] != service.keys[0]


class Terminal(io.StringIO):
    """A text file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


EVENTS: list[tuple[str, Any]] = [
    ("added", "generate-audio"),
    ("active", None),
    ("progress", 40),
    ("completed", {}),
]


def test_progress_is_shown_as_lines_where_there_is_no_terminal() -> None:
    """Each change of a job is one line with its name, part, percentage and state."""
    out = io.StringIO()
    live = Live(out)

    for event, data in EVENTS:
        live.take(QueueEvent(queue="q", job_id="course.listen", event=event, data=data))

    lines = out.getvalue().splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["added", "active", "active", "completed"]
    assert all("generate-audio  listen" in line for line in lines)
    assert " 40 %" in lines[2]


def test_progress_is_shown_as_bars_on_a_terminal() -> None:
    """A terminal has one bar for each job, drawn over, and none for a queue's own events."""
    out = Terminal()
    live = Live(out)

    for event, data in EVENTS:
        live.take(QueueEvent(queue="q", job_id="course", event=event, data=data))
    live.take(QueueEvent(queue="q", job_id="", event="drained"))

    frames = out.getvalue().split("\x1b[1A")
    assert len(frames) == 4
    assert all(frame.count("generate-audio") == 1 for frame in frames)
    assert "drained" not in out.getvalue()
