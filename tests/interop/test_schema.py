"""The contract on Node's side: TypeScript that compiles against BullMQ, and zod's schemas."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from convolab_worker import HandlerRegistry, Job, Settings, Worker
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.handlers.contract.compatibility import compare
from convolab_worker.handlers.contract.document import contract_of
from convolab_worker.handlers.contract.typescript import typescript
from examples.convolab.handlers import dialogue
from tests.interop.session import PACKAGES
from tests.support.markdown import ROOT, blocks
from tests.support.node import INTEROP, NodeScripts

pytestmark = pytest.mark.skipif(
    NodeScripts.missing() is not None, reason=str(NodeScripts.missing())
)

handlers = HandlerRegistry()
MODULES = INTEROP / "node_modules"
EXAMPLE = INTEROP.parents[1] / "examples" / "convolab"


@dataclass
class Line:
    """What one speaker says."""

    speaker: str
    text: Annotated[str, Meta(min_length=1)]


@dataclass
class AudioRequest:
    dialogueId: str  # noqa: N815 - Node's name
    lines: list[Line]
    speed: Annotated[float, Meta(ge=0, le=2)] = 1.0
    level: Literal["N5", "N4", "N3"] = "N5"
    note: str | None = None
    at: dt.datetime | None = None


@dataclass
class AudioResult:
    url: str
    seconds: float
    note: str | None


@handlers.audio("speak", queue="audio", attempts=3)
async def speak(job: Job[AudioRequest]) -> AudioResult:
    """Say it, */ and save it."""
    return AudioResult(job.data.dialogueId, job.data.speed, None)


@handlers.image("draw", queue="images")
async def draw(job: Job[tuple[int, str]]) -> list[str] | None:
    return [job.data[1]]


@handlers.image("draw many", queue="images")
async def draw_many(job: Job[dict[str, int]]) -> dict[str, Any]:
    return dict(job.data)


DOCUMENT = contract_of(handlers, []).document
HEAD = """
import { Queue, QueueEvents } from "bullmq";
import type { JobResult, TypedQueue } from "./jobs.js";
const connection = { host: "localhost" };
const audio: TypedQueue<"audio"> = new Queue("audio", { connection });
const images: TypedQueue<"images"> = new Queue("images", { connection });
const lines = [{ speaker: "a", text: "b" }];
"""
RIGHT = """
const job = await audio.add("speak", { dialogueId: "d", lines, note: null }, { attempts: 1 });
const result = await job.waitUntilFinished(new QueueEvents("audio", { connection }));
const seconds: number = result.seconds;
const note: string | null = result.note;
await audio.addBulk([{ name: "speak", data: { dialogueId: "d", lines, level: "N4" } }]);
await audio.upsertJobScheduler("s", { every: 1000 }, { name: "speak", data: job.data });
await images.add("draw", [1, "a"]);
await images.add("draw many", { any: 1 });
await images.addBulk([{ name: "draw", data: [1, "a"] }, { name: "draw many", data: {} }]);
const urls: JobResult<"images", "draw"> = null;
await images.pause();
await audio.close();
"""
WRONG = {
    "a-misspelt-job-name": (
        'await audio.add("speek", { dialogueId: "d", lines });',
        "'\"speek\"' is not assignable",
    ),
    "a-misspelt-field": (
        'await audio.add("speak", { dialogueId: "d", line: [] });',
        "'line' does not exist",
    ),
    "a-missing-field": ('await audio.add("speak", { lines });', "'dialogueId' is missing"),
    "a-wrong-type": (
        'await audio.add("speak", { dialogueId: "d", lines, speed: "1" });',
        "Type 'string' is not assignable to type 'number'",
    ),
    "null-for-what-is-only-optional": (
        'await audio.add("speak", { dialogueId: "d", lines, speed: null });',
        "Type 'null' is not assignable",
    ),
    "a-literal-that-is-none-of-them": (
        'await audio.add("speak", { dialogueId: "d", lines, level: "N9" });',
        "'\"N9\"' is not assignable",
    ),
    "a-tuple-that-is-too-long": (
        'await images.add("draw", [1, "a", 2]);',
        "not assignable to parameter",
    ),
    "another-jobs-data": (
        'await images.addBulk([{ name: "draw", data: { any: 1 } }]);',
        "does not exist in type '[number, string]'",
    ),
    "a-result-used-as-something-else": (
        """
        const job = await audio.add("speak", { dialogueId: "d", lines });
        const result = await job.waitUntilFinished(new QueueEvents("audio", { connection }));
        const text: string = result.seconds;
        """,
        "Type 'number' is not assignable to type 'string'",
    ),
    "a-queue-that-is-not-there": (
        'const other: TypedQueue<"vidoes"> = new Queue("vidoes", { connection });',
        "'\"vidoes\"' does not satisfy",
    ),
}
OPTIONS = {
    "strict": True,
    "target": "es2022",
    "module": "nodenext",
    "skipLibCheck": True,
    "types": ["node"],
}


def project(folder: Path, package: str, config: dict[str, Any]) -> None:
    """Make a folder with that version of BullMQ installed."""
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "bullmq").symlink_to(MODULES / package)
    (folder / "node_modules" / "@types").symlink_to(MODULES / "@types")
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "tsconfig.json").write_text(json.dumps(config))


def compile_in(folder: Path) -> str:
    """Run the compiler, and return what it says."""
    tsc = [str(MODULES / ".bin" / "tsc"), "--project", str(folder), "--pretty", "false"]
    return subprocess.run(tsc, capture_output=True, text=True, check=False, cwd=folder).stdout


@pytest.mark.parametrize("package", PACKAGES.values())
def test_bullmqs_queue_refuses_a_wrong_call_when_it_is_compiled(
    tmp_path: Path, package: str
) -> None:
    """And takes a right one: one run of the compiler on a program of each kind."""
    project(tmp_path, package, {"compilerOptions": {**OPTIONS, "noEmit": True}})
    (tmp_path / "jobs.d.ts").write_text(typescript(DOCUMENT))
    (tmp_path / "right.ts").write_text(HEAD + RIGHT)
    for name, (program, _) in WRONG.items():
        (tmp_path / f"{name}.ts").write_text(HEAD + program)

    said = compile_in(tmp_path)
    errors = [line.partition("(")[::2] for line in said.splitlines() if line[:1].strip()]

    for name, (_, message) in WRONG.items():
        assert any(file == f"{name}.ts" and message in error for file, error in errors), said
    assert {file for file, _ in errors} == {f"{name}.ts" for name in WRONG}


@pytest.mark.asyncio
async def test_the_example_s_producer_compiles_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the types that the example has committed, against the example's handlers."""
    project(tmp_path, "bullmq", {"compilerOptions": {**OPTIONS, "outDir": "built"}})
    for name in ("producer.ts", "jobs.d.ts"):
        (tmp_path / name).write_text((EXAMPLE / name).read_text())
    monkeypatch.setenv("LESSON_OUTPUT", str(tmp_path / "lessons"))
    compiled = await asyncio.to_thread(compile_in, tmp_path)

    async with private_server() as url:
        settings = Settings(redis_url=url, queues=("dialogue-generation",))
        async with Worker(dialogue.handlers, settings):
            process = await asyncio.create_subprocess_exec(
                "node",
                tmp_path / "built" / "producer.js",
                env={**os.environ, "REDIS_URL": url},
                stdout=asyncio.subprocess.PIPE,
            )
            said, _ = await asyncio.wait_for(process.communicate(), 60)

    assert compiled == ""
    assert json.loads(said) == {"lines": 4, "file": "from-typescript/dialogue.json"}


def types_of(folder: Path, page: str, *more: str) -> None:
    """Write a page's Python files, and what it says `schema --typescript` makes of them."""
    for block in blocks(ROOT / "docs" / page):
        if block.kind == "python" and block.file is not None:
            (folder / block.file).write_text(block.text)
    command = [sys.executable, "-m", "convolab_worker", "schema", *more, "--typescript"]
    with (folder / "jobs.d.ts").open("w") as types:
        subprocess.run(command, stdout=types, check=True, cwd=folder)


@pytest.mark.asyncio
async def test_the_page_s_producer_compiles_and_runs(tmp_path: Path) -> None:
    """docs/contract.md: its compiler's options, the types, and what the producer prints."""
    page = blocks(ROOT / "docs" / "contract.md")
    shown = {block.file: block.text for block in page}
    (config,) = (json.loads(block.text) for block in page if block.kind == "json")
    printed = {command: output for block in page for command, output in block.commands}
    project(tmp_path, "bullmq", config)
    await asyncio.to_thread(
        types_of, tmp_path, "contract.md", "--app", "handlers:handlers", "--queue", "audio"
    )
    (tmp_path / "producer.ts").write_text(shown["producer.ts"])
    wrong = shown["producer.ts"].replace('{ text: "Guten Tag" }', "{ txt: 3 }")
    (tmp_path / "wrong.ts").write_text(wrong)
    compiled = await asyncio.to_thread(compile_in, tmp_path)

    async with private_server() as url:
        environment = {**os.environ, "REDIS_URL": url}
        worker = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "convolab_worker", "run"],
            *["--app", "handlers:handlers", "--queue", "audio"],
            cwd=tmp_path,
            env=environment,
        )
        try:
            producer = await asyncio.create_subprocess_exec(
                "node", tmp_path / "producer.js", env=environment, stdout=asyncio.subprocess.PIPE
            )
            said, _ = await asyncio.wait_for(producer.communicate(), 90)
        finally:
            worker.terminate()
            await asyncio.wait_for(worker.wait(), 30)

    types = (tmp_path / "jobs.d.ts").read_text()
    assert [part for part in shown["jobs.d.ts"].split("\n\n") if part.strip() not in types] == []
    errors = [line for line in compiled.splitlines() if line[:1].strip()]
    assert [error for error in errors if not error.startswith("wrong.ts(")] == []
    assert "'txt' does not exist in type 'AudioRequest'" in compiled
    assert said.decode() == printed["node producer.js"]


def test_the_types_fit_the_producer_of_the_page_of_bullmq(tmp_path: Path) -> None:
    """docs/bullmq.md: its producer with the two lines that the types change compiles."""
    page = blocks(ROOT / "docs" / "bullmq.md")
    (producer,) = (block.text for block in page if block.kind == "typescript")
    (typed,) = (block.text for block in page if block.kind == "ts" and "TypedQueue" in block.text)
    imported, queue = typed.splitlines()
    lines = [queue if line.startswith("const queue =") else line for line in producer.splitlines()]
    project(tmp_path, "bullmq", {"compilerOptions": {**OPTIONS, "noEmit": True}})
    types_of(tmp_path, "bullmq.md", "--app", "jobs:handlers")
    (tmp_path / "producer.ts").write_text("\n".join([imported, *lines]))

    assert queue in "\n".join([imported, *lines])
    assert compile_in(tmp_path) == ""


@asynccontextmanager
async def private_server() -> AsyncIterator[str]:
    """A server of the test's own: the producer names its queue and no prefix."""
    server = EmbeddedServer()
    await asyncio.to_thread(server.start)
    try:
        yield server.url
    finally:
        await asyncio.to_thread(server.stop)


@pytest.mark.asyncio
async def test_schemas_of_node_s_libraries_are_compared() -> None:
    """zod, Valibot and ArkType write the API's side: what fits does, and what does not is named."""
    async with await NodeScripts().start("schemas.mjs") as node:
        for library in ("zod", "valibot", "arktype"):
            fits = await node.ask("schema", library=library)
            wrong = await node.ask("schema", library=library, speed="text", seconds="whole")

            assert [change for change in compare(fits, only_audio()) if change.breaks] == []
            breaks = {
                change.path: change.text for change in compare(wrong, only_audio()) if change.breaks
            }
            assert breaks == {
                "payload.speed": "the API may send text, the worker takes a number",
                "result.seconds": "the API takes whole numbers only, the worker may return others",
            }


def only_audio() -> dict[str, Any]:
    return {**DOCUMENT, "properties": {"audio": DOCUMENT["properties"]["audio"]}}
