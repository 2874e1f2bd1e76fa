"""README and docs, run as they stand: a page is one program, from its first block to its last."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from convolab_worker.embedded import EmbeddedServer
from tests.support.markdown import PAGES, Block, blocks, shown
from tests.support.node import INTEROP, NodeScripts
from tests.support.server import server_program

# Pages without Python describe commands one by one; tests/unit/test_docs.py looks at those.
STORIES = [page for page in PAGES if any(block.kind == "python" for block in blocks(page))]
_PATIENCE_SECONDS = 60.0
_GO_ON = {"run": "worker.started", "console": "the console is at"}
"""The commands that go on until Ctrl-C, and what each says when it has started."""


@pytest.mark.parametrize("page", STORIES, ids=shown)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    """Every block of the page runs, and what it shows as printed is what is printed."""
    with _story(page, tmp_path) as story:
        for block in blocks(page):
            story.tell(block)


@contextmanager
def _story(page: Path, folder: Path) -> Iterator[Story]:
    with ExitStack() as ends:
        server = ends.enter_context(EmbeddedServer(program=server_program()))
        story = Story(page, folder, server.url)
        ends.callback(story.abandon)
        yield story
        story.end_section()


class Story:
    """A page's program: its files in a folder, its processes, and what was printed last."""

    def __init__(self, page: Path, folder: Path, redis_url: str) -> None:
        self._page = shown(page)
        self._folder = folder
        self._environment = {
            **os.environ,
            "PATH": f"{self._shims()}{os.pathsep}{os.environ['PATH']}",
            "REDIS_URL": redis_url,
            "PORT": "0",
            "DJANGO_SETTINGS_MODULE": "settings",
        }
        self._printed = ""
        self._section = 0
        self._workers: list[subprocess.Popen[str]] = []
        self._producers: list[subprocess.Popen[str]] = []

    def _shims(self) -> Path:
        """Make the commands of pages those of this interpreter, whatever is installed."""
        shims = self._folder / "bin"
        shims.mkdir()
        for name, words in {"convolab-worker": " -m convolab_worker", "python": ""}.items():
            shim = shims / name
            shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{words} "$@"\n')
            shim.chmod(0o755)
        return shims

    def tell(self, block: Block) -> None:
        """Do what the block says; what a section has started ends with it."""
        where = f"{self._page}:{block.line}"
        if block.section != self._section:
            self._section = block.section
            self.end_section()
        if block.kind == "python":
            name = block.file or f"block_at_line_{block.line}.py"
            (self._folder / name).write_text(_with_django_tasks(block.text), encoding="utf-8")
            self._printed = self._run(f"python -W error {name}", where)
        elif block.kind == "text":
            _compare(block.text, self._printed, where)
        elif block.kind == "console":
            for command, output in block.commands:
                self._command(command, output, where)
        elif block.kind == "typescript" and NodeScripts.missing() is None:
            (self._folder / "node_modules").symlink_to(INTEROP / "node_modules")
            (self._folder / "producer.mjs").write_text(block.text, encoding="utf-8")
            self._producers.append(self._start("node producer.mjs"))

    def _command(self, command: str, output: str, where: str) -> None:
        command = command.replace("python manage.py", "python -m django")  # the same, says Django
        words = shlex.split(command)
        goes_on = words[0] == "convolab-worker" and words[1] in _GO_ON and "--burst" not in words
        if goes_on or words[:4] == ["python", "-m", "django", "convolab_worker"]:
            worker = self._start(command)
            self._workers.append(worker)
            _wait_until_started(worker, where)
        elif words[0] == "convolab-worker" or (self._folder / words[-1]).is_file():
            _compare(output, self._run(command, where), where)

    def _run(self, command: str, where: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE_SECONDS,
            check=False,
            text=True,
        )
        ending = f"{where}: {command}\nended with {done.returncode}, printing\n{done.stdout}"
        assert done.returncode == 0, ending
        return done.stdout

    def _start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end_section(self) -> None:
        """Wait until the producers have ended, then stop the workers as Ctrl-C does."""
        for producer in self._producers:
            self._end(producer)
        for worker in self._workers:
            worker.send_signal(signal.SIGINT)
            self._end(worker)
        self._producers.clear()
        self._workers.clear()

    def _end(self, process: subprocess.Popen[str]) -> None:
        printed, _ = process.communicate(timeout=_PATIENCE_SECONDS)
        ending = f"{self._page}: {process.args!r}\nended with {process.returncode}\n{printed}"
        assert process.returncode == 0, ending

    def abandon(self) -> None:
        """End what is still running, after a failure."""
        for process in (*self._producers, *self._workers):
            process.kill()
            process.communicate()


def _with_django_tasks(text: str) -> str:
    """Put the package into the place of Django's own Tasks where Django has none, as pages say."""
    if find_spec("django.tasks") is not None:
        return text
    return text.replace("from django.tasks import", "from django_tasks import")


def _wait_until_started(worker: subprocess.Popen[str], where: str) -> None:
    assert worker.stdout is not None
    lines: list[str] = []
    for line in worker.stdout:
        lines.append(line)
        if any(said in line for said in _GO_ON.values()):
            return
    pytest.fail(f"{where}: the worker ended, printing\n{''.join(lines)}")


def _compare(expected: str, printed: str, where: str) -> None:
    """Fail unless ``printed`` is what the page shows: … is anything, and alone any lines."""
    if expected.strip():
        lines = [_pattern(line) for line in expected.strip().splitlines()]
        matches = re.fullmatch("".join(lines), f"{printed.strip()}\n")
        assert matches, f"{where}: shown\n{expected}\nprinted\n{printed}"


def _pattern(line: str) -> str:
    if line == "…":
        return r"(?:.*\n)*?"
    return ".*?".join(re.escape(part) for part in line.split("…")) + r"\n"
