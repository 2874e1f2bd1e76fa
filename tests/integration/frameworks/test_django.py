"""Django's Tasks on BullMQ: what ``@task`` functions and their results do, with a real project.

The project is in ``django_project``: Django has one configuration in a process, so that it is used
by programs (``probe.py``), and run by ``manage.py convolab_worker``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from convolab_worker.embedded import EmbeddedServer

PROJECT = Path(__file__).parent / "django_project"
SUCCEEDED = [True] * 4


class Project:
    """The project, its worker and its programs, on a queue of its own."""

    def __init__(self, url: str, folder: Path, queue: str) -> None:
        self.url = url
        self.signals = folder / "signals"
        self._environment = {
            **os.environ,
            "TEST_REDIS_URL": url,
            "TEST_QUEUE": queue,
            "TEST_SIGNALS": str(self.signals),
            "TEST_DATABASE": str(folder / "db.sqlite3"),
            "DJANGO_SETTINGS_MODULE": "site_settings",
            "LOG_FORMAT": "json",
            "CONVOLAB_IDLE_MIN": "50ms",
        }

    def program(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the project's to its end."""
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=PROJECT,
            env=self._environment | environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def probe(self, what: str) -> dict[str, Any]:
        """Run a part of the probe, and give what it saw."""
        program = "import django; django.setup(); import probe; probe.main()"
        done = self.program("-c", program, TEST_PROBE=what)
        assert done.returncode == 0, done.stderr
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen

    @contextmanager
    def worker(self, *arguments: str, **environ: str) -> Iterator[None]:
        """Run a worker, and end it as a platform does."""
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=PROJECT,
            env=self._environment | environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        printed = []
        try:
            for line in process.stderr:
                printed.append(line)
                if "worker.started" in line:
                    break
            else:
                pytest.fail(f"no worker: {''.join(printed)}")
            yield
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=20)
            assert process.returncode == 0, errors
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def project(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("django")
    return Project(server.url, folder, folder.name)


@pytest.fixture(scope="module")
def before(project: Project) -> dict[str, Any]:
    """What an application sees without a worker."""
    return project.probe("before")


@pytest.fixture(scope="module")
def seen(project: Project, before: dict[str, Any]) -> dict[str, Any]:
    """What an application sees with a worker, which ``manage.py`` runs."""
    del before  # its jobs are run, too
    with project.worker("manage.py", "convolab_worker", "-c", "4", CONVOLAB_WORKER_NAME="w-1"):
        return project.probe("with")


def test_an_enqueued_task_is_ready(before: dict[str, Any]) -> None:
    assert before["enqueued"] == {
        "status": "READY",
        "value": None,
        "errors": [],
        "traceback": None,
        "attempts": 0,
        "workers": [],
        "times": [True, False, False, False],
    }
    assert before["value of one that is not finished"].startswith("ValueError")


def test_a_task_is_a_job_that_node_could_have_added(
    before: dict[str, Any], project: Project
) -> None:
    queue = project.signals.parent.name
    data = {"args": [1], "kwargs": {"b": 2}}
    assert before["job"] == ["shop.tasks.add", data, queue, "prioritized"]


def test_a_result_is_read_by_its_id(before: dict[str, Any]) -> None:
    assert before["read"] == [True, False, False, False, [1], {"b": 2}, True]
    assert before["pickled"] == [True, True]


def test_results_that_are_not_there(before: dict[str, Any]) -> None:
    """Those of another task, of no job, and of a job that is not a task's."""
    assert before["read of another task"].startswith(f"{before['mismatch']}: ")
    assert before["read of none"] == f"{before['none']}: none"
    assert before["read of a job that is none"].startswith(f"{before['none']}: ")


def test_run_after_is_a_delay(before: dict[str, Any]) -> None:
    assert before["delayed"] == ["delayed", 0.0]
    assert before["delayed read"] == ["READY", True]
    assert before["past"] == "prioritized"


def test_priorities_keep_their_order(before: dict[str, Any]) -> None:
    """BullMQ starts with the lowest number, and with 0 before all."""
    order = sorted(before["priorities"], key=before["priorities"].__getitem__)
    assert order == ["100", "50", "0", "-1", "-100"]
    assert before["priorities"]["100"] == 0
    assert before["priorities read"] == [-100, -1, 0, 50, 100]


def test_what_is_refused(before: dict[str, Any]) -> None:
    refused = before["refused"]
    for what in ("priority", "queue", "naive", "local"):
        assert refused[what].startswith(f"{before['invalid']}: "), what
    assert refused["arguments"].startswith("TypeError: ")
    assert "redis_uri: no such setting; did you mean redis_url?" in refused["options"]
    for what, part in {"job options": "attempts=0", "queue names": "'a:b'"}.items():
        assert refused[what].startswith("ImproperlyConfigured: TASKS['x']: "), what
        assert part in refused[what]
    assert before["no redis"] == "RedisUnavailable"


def test_nothing_that_was_refused_is_added(before: dict[str, Any]) -> None:
    (counts,) = before["refused added"].values()
    assert {state: count for state, count in counts.items() if count} == {"prioritized": 1}


def test_enqueue_on_commit(project: Project) -> None:
    seen = project.probe("transactions")
    assert seen["in a transaction"] == [True, False, True]
    assert seen["committed"] == [True, True]
    assert seen["rolled back"] is False
    assert seen["outside"] is True


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("plain", 3),
        ("async", 3),
        ("shapes", {"args": [1, [2, "é"]], "kwargs": {"key": {"a": None}}, "bytes": "text"}),
        ("context", ["hello", 1, "RUNNING", "told", 1, "RUNNING", 1]),
        ("async context", ["hello", 1]),
        ("other queue", "sent to a@b"),
    ],
)
def test_a_task_is_run(seen: dict[str, Any], what: str, value: object) -> None:
    assert seen["done"][what] == {
        "status": "SUCCESSFUL",
        "value": value,
        "errors": [],
        "traceback": None,
        "attempts": 1,
        "workers": ["w-1"],
        "times": SUCCEEDED,
    }


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("failed", "shop.tasks.Trouble"),
        ("async failed", "shop.tasks.Trouble"),
        ("failed from another", "builtins.KeyError"),
        ("not json", "builtins.TypeError"),
        ("left", "builtins.SystemExit"),
        ("too long", "convolab_worker.errors.JobTimeout"),
    ],
)
def test_a_task_that_fails(seen: dict[str, Any], what: str, error: str) -> None:
    found = seen["done"][what]
    trace = found.pop("traceback")
    assert found == {
        "status": "FAILED",
        "value": None,
        "errors": [error],
        "attempts": 1,
        "workers": ["w-1"],
        "times": SUCCEEDED,
    }
    assert "Traceback (most recent call last):" in trace
    assert seen["class"] is True
    assert seen["value of a failed one"] == "ValueError: Task failed"


def test_a_task_that_is_tried_again(seen: dict[str, Any]) -> None:
    """Its errors and its workers are those of all attempts."""
    lucky, unlucky = seen["done"]["retried"], seen["done"]["retried in vain"]
    assert (lucky["status"], lucky["value"], lucky["attempts"]) == ("SUCCESSFUL", 2, 2)
    assert lucky["workers"] == ["w-1", "w-1"]
    assert lucky["errors"] == ["shop.tasks.Trouble"]
    assert (unlucky["status"], unlucky["attempts"]) == ("FAILED", 2)
    assert unlucky["errors"] == ["shop.tasks.Trouble"] * 2


def test_the_database_is_used_as_by_a_request(seen: dict[str, Any]) -> None:
    one, thread, is_open = seen["done"]["database"]["value"]
    assert (one, is_open) == (1, True)
    assert thread != "MainThread"
    first, second = seen["done"]["async database"]["value"]
    assert first == second
    assert seen["done"]["left open"]["value"] == 0


def test_from_a_loop(seen: dict[str, Any]) -> None:
    assert seen["aenqueue"] == "READY"
    assert seen["arefresh"] == 23
    assert seen["aget_result"] == 23


def test_signals_are_sent_where_a_task_is_enqueued_starts_and_ends(
    seen: dict[str, Any], project: Project
) -> None:
    """A receiver that fails changes nothing."""
    lines = [line.split() for line in project.signals.read_text().splitlines()]
    of = {what: [line for line in lines if line[1] == id_] for what, id_ in seen["ids"].items()}

    def told(what: str) -> list[list[str]]:
        """What the worker has told; the program tells at the same time that it has enqueued."""
        signals = [[kind, *rest] for kind, _, *rest in of[what]]
        signals.remove(["enqueued", "READY", "0"])
        return signals

    ended = [["started", "RUNNING", "1"]]
    for what in ("plain", "async"):
        assert told(what) == [*ended, ["finished", "SUCCESSFUL", "1"]], what
    for what in ("failed", "async failed", "too long"):
        assert told(what) == [*ended, ["finished", "FAILED", "1"]], what
    assert told("retried in vain") == [
        *ended, ["started", "RUNNING", "2"], ["finished", "FAILED", "2"],
    ]  # fmt: skip


def test_the_command_line_runs_the_tasks_without_manage_py(project: Project) -> None:
    """With the environment's settings, and Django set up by the registry's module."""
    queue = project.signals.parent.name
    environ = {
        "REDIS_URL": project.url,
        "CONVOLAB_QUEUES": queue,
        "TEST_SIGNALS": os.devnull,
        "LOG_FORMAT": "json",
    }
    app = "convolab_worker.integrations.django:handlers"
    listed = project.program("-m", "convolab_worker", "handlers", "--app", app, "--json", **environ)
    assert listed.returncode == 0, listed.stderr
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    rows = rows[0] if isinstance(rows[0], list) else rows
    (row,) = [row for row in rows if row["names"] == ["shop.tasks.too_long"]]
    assert (row["kind"], row["timeout"], row["thread"]) == ("task", 0.2, False)
    assert row["handler"].startswith("shop.tasks.too_long:")

    project.probe("transactions")
    drained = project.program("-m", "convolab_worker", "drain", "--app", app, **environ)
    assert json.loads(drained.stdout)["processed"] >= 3, drained.stderr
