"""``make demo``: a whole course, from an empty folder to a page, without network or key.

Starts a private Valkey and a worker (``python -m convolab_worker run``) as processes, adds a course
job as an API service would, shows the progress of every job, and prints where the files are.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convolab_worker import JobClient, Settings
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import ConvolabWorkerError
from examples.convolab.jobs import GENERATE_COURSE
from examples.convolab.live import Live
from examples.convolab.model import LANGUAGE_NAMES, Language, Level
from examples.convolab.payloads import DEFAULT_EPISODE, QUEUES, CourseRequest
from examples.convolab.sources import source_ids
from examples.convolab.store import OUTPUT_VARIABLE
from examples.convolab.watching import queue_events

_REPOSITORY = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 12.0
_LOG_LINES = 15


class DemoFailed(Exception):
    """The demo can't go on; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    out: Path
    episode: str
    language: Language
    level: Level
    lines: int
    timeout: float
    online: bool

    @property
    def course_id(self) -> str:
        """The folder of the course: the same for the same course, so that a run replaces it."""
        return f"{self.episode}-{self.language}-{self.level.lower()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    options = _options(arguments)
    began = time.monotonic()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        result = asyncio.run(_run(options))
        files = _files(options.out, result)
    except (DemoFailed, ConvolabWorkerError, OSError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    seconds = time.monotonic() - began
    print(f"\nMade “{result['title']}”, a lesson of {result['seconds']:.0f} s, in {seconds:.1f} s:")
    for path in files:
        print(f"  {_shown(path)}")
    print(f"\nOpen {_shown(options.out / result['page'])} in a browser.")
    return 0


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m examples.convolab.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="where files go")
    parser.add_argument("--episode", choices=source_ids(), default=DEFAULT_EPISODE)
    parser.add_argument("--language", choices=tuple(LANGUAGE_NAMES), default="ja")
    parser.add_argument("--level", choices=("N5", "N4", "N3", "N2", "N1"), default="N5")
    parser.add_argument("--lines", type=int, default=12, help="lines of the dialogue")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds until it gives up")
    parser.add_argument(
        "--online", action="store_true", help="use the OPENAI_* variables if they are set"
    )
    found = vars(parser.parse_args(arguments))
    return Options(**{**found, "out": found["out"].absolute()})


async def _run(options: Options) -> dict[str, Any]:
    """Start the servers, add the course, and return its result."""
    server = EmbeddedServer()
    await asyncio.to_thread(server.start)
    try:
        settings = Settings(redis_url=server.url, queues=QUEUES)
        log = options.out / "worker.log"
        async with _worker(_environment(server.url, options), log) as worker:
            async with JobClient(settings) as client:
                course = CourseRequest(
                    courseId=options.course_id,
                    episodeId=options.episode,
                    language=options.language,
                    jlptLevel=options.level,
                    dialogueLength=options.lines,
                )
                await client.enqueue(GENERATE_COURSE, course, job_id="course")
            print(f"Worker {worker.pid} runs on {server.url}; its log is {_shown(log)}\n")
            return await _outcome(server.url, worker, log, options.timeout)
    finally:
        await asyncio.to_thread(server.stop)


def _environment(url: str, options: Options) -> dict[str, str]:
    """Return the worker's environment: this one's, without what would make the demo differ."""
    own = ("CONVOLAB_", "OPENAI_") if not options.online else ("CONVOLAB_",)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return {
        **kept,
        "REDIS_URL": url,
        "CONVOLAB_QUEUES": ",".join(QUEUES),
        OUTPUT_VARIABLE: str(options.out),
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "auto",
    }


@asynccontextmanager
async def _worker(
    environment: Mapping[str, str], log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the worker as the process that it is in production, its log in a file."""
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "convolab_worker", "run"),
            *("--app", "examples.convolab.app:handlers"),
            cwd=_REPOSITORY,
            env=environment,
            stdout=file,
            stderr=file,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _outcome(
    url: str, worker: asyncio.subprocess.Process, log: Path, timeout: float
) -> dict[str, Any]:
    """Wait for the course, the worker's death or the time-out, whichever is first."""
    watching = asyncio.create_task(_watch(url), name="demo-watch")
    dying = asyncio.create_task(worker.wait(), name="demo-worker")
    try:
        done, _ = await asyncio.wait(
            {watching, dying}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if watching in done:
            return watching.result()
        reason = f"the worker ended with exit code {worker.returncode}"
        if not done:
            reason = f"the course was not ready after {timeout:g} s"
        msg = f"{reason}. The end of its log:\n{_end_of(log)}"
        raise DemoFailed(msg)
    finally:
        watching.cancel()
        dying.cancel()
        await asyncio.gather(watching, dying, return_exceptions=True)


async def _watch(url: str) -> dict[str, Any]:
    """Show every event until the course has ended; return its result."""
    live = Live(sys.stdout)
    async for event in queue_events(url, QUEUES):
        live.take(event)
        if event.job_id == "course" and event.event == "completed":
            result: dict[str, Any] = event.data
            return result
        if event.job_id == "course" and event.event == "failed":
            raise DemoFailed(str(event.data))
    msg = "the event streams ended"
    raise DemoFailed(msg)


def _files(out: Path, result: Mapping[str, Any]) -> list[Path]:
    """Return the files of the result; DemoFailed if one is not there."""
    names = [result["page"], result["lesson"], result["dialogue"], result["course"]]
    paths = [out / name for name in (*names, *result["pictures"])]
    for path in paths:
        if not path.is_file() or path.stat().st_size == 0:
            msg = f"{path} is missing or empty"
            raise DemoFailed(msg)
    return paths


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:]) or "  (empty)"


def _shown(path: Path) -> Path:
    """Return ``path`` from the current folder where it is inside it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


if __name__ == "__main__":
    sys.exit(main())
