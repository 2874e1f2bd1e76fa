"""The command line's log before anybody has imported structlog, and from then on."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SET_UP = """
import sys
from convolab_worker._logs import Log
from convolab_worker.telemetry.log_context import bind_job
from convolab_worker.telemetry.logging import configure_logging
configure_logging("info", "json", sys.stdout)
job = ("7", "audio", "q", "tts", 2)
"""
JOB = {"job_id": "7", "job_name": "audio", "queue": "q", "kind": "tts", "attempt": 2}


def lines_of(program: str) -> list[dict[str, Any]]:
    """What a program that has set up the log writes, in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SET_UP + program], check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_librarys_lines_do_not_need_it() -> None:
    lines = lines_of(
        "Log().info('worker.started', queues=['q'])\n"
        "Log().debug('not.told')\n"
        "Log().bound().warning('job.retried', {'job_id': '1'})\n"
        "Log().info('end', imported='structlog' in sys.modules)\n"
    )

    assert [line["event"] for line in lines] == ["worker.started", "job.retried", "end"]
    assert [line["level"] for line in lines] == ["info", "warning", "info"]
    assert lines[0]["queues"] == ["q"]
    assert lines[2]["imported"] is False


def test_an_exception_is_told_with_its_traceback() -> None:
    lines = lines_of(
        "try:\n    1 / 0\n"
        "except ZeroDivisionError as error:\n    Log().error('failed', exc_info=error)\n"
    )

    assert lines[0]["exception"].endswith("ZeroDivisionError: division by zero")


def test_structlog_is_set_up_once_it_is_imported() -> None:
    lines = lines_of(
        "import structlog\n"
        "structlog.get_logger().info('of.the.application', n=1)\n"
        "structlog.get_logger().debug('not.told')\n"
        "Log().info('of.the.library')\n"
    )

    assert [line["event"] for line in lines] == ["of.the.application", "of.the.library"]


def test_the_lines_of_logging_have_the_same_format() -> None:
    lines = lines_of("import logging; logging.getLogger('httpx').warning('late by %d s', 3)\n")

    assert (lines[0]["event"], lines[0]["logger"]) == ("late by 3 s", "httpx")


def test_what_the_application_configures_is_what_is_done() -> None:
    own = "processors=[add, structlog.processors.JSONRenderer()]"
    factory = "logger_factory=structlog.PrintLoggerFactory()"
    lines = lines_of(
        "import structlog\n"
        "add = lambda _, __, event: {**event, 'service': 'audio'}\n"
        f"structlog.configure({own}, {factory})\n"
        "Log().info('first', n=1)\n"
        "Log().bound().warning('second', {'n': 2})\n"
        "Log().bound().job('third', 3, job)\n"
    )

    assert lines == [
        {"n": 1, "event": "first", "service": "audio"},
        {"n": 2, "event": "second", "service": "audio"},
        {"duration_ms": 3, **JOB, "event": "third", "service": "audio"},
    ]


def test_so_is_a_part_of_the_configuration() -> None:
    lines = lines_of(
        "import structlog, logging\n"
        "quiet = structlog.make_filtering_bound_logger(logging.WARNING)\n"
        "structlog.configure(wrapper_class=quiet)\n"
        "Log().info('first')\n"
        "Log().bound().job('second', 3, job)\n"
        "Log().bound().warning('third', {})\n"
    )

    assert [line["event"] for line in lines] == ["third"]


def test_helpers_for_tests_see_every_line() -> None:
    lines = lines_of(
        "import structlog\n"
        "with structlog.testing.capture_logs() as seen:\n"
        "    Log().info('first')\n"
        "    Log().bound().job('second', 3, job)\n"
        "Log().info('end', seen=[line['event'] for line in seen])\n"
    )

    assert [line["event"] for line in lines] == ["end"]
    assert lines[0]["seen"] == ["first", "second"]


def test_a_job_is_bound_to_the_lines_of_a_structlog_that_comes_later() -> None:
    lines = lines_of(
        "bind_job('7', 'audio', 'q', 2)\n"
        "import structlog\n"
        "structlog.get_logger().info('in.the.handler')\n"
        "bind_job('8', 'audio', 'q', 1)\n"
        "structlog.contextvars.bind_contextvars(voice='alto')\n"
    )

    told = {name: lines[0][name] for name in ("job_id", "job_name", "queue", "attempt")}
    assert told == {"job_id": "7", "job_name": "audio", "queue": "q", "attempt": 2}


def test_a_thread_that_imports_it_while_a_job_is_bound_gets_it_whole() -> None:
    lines = lines_of(
        "import threading\n"
        "from importlib.util import find_spec\n"
        "began, go, failed = threading.Event(), threading.Event(), []\n"
        "class Slow:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name != 'structlog' or self not in sys.meta_path:\n"
        "            return None\n"
        "        sys.meta_path.remove(self)\n"
        "        spec = find_spec(name)\n"
        "        load = spec.loader.exec_module\n"
        "        def exec_module(module):\n"
        "            began.set()\n"
        "            go.wait(10)\n"
        "            load(module)\n"
        "        spec.loader.exec_module = exec_module\n"
        "        return spec\n"
        "sys.meta_path.insert(0, Slow())\n"
        "def first():\n"
        "    try:\n"
        "        import structlog\n"
        "    except ImportError as error:\n"
        "        failed.append(str(error))\n"
        "thread = threading.Thread(target=first)\n"
        "thread.start()\n"
        "began.wait(10)\n"
        "threading.Timer(0.2, go.set).start()\n"
        "bind_job('7', 'work', 'q', 1)\n"
        "thread.join()\n"
        "from structlog.contextvars import get_contextvars\n"
        "Log().info('end', failed=failed, job=get_contextvars()['job_id'])\n"
    )

    assert [(line["failed"], line["job"]) for line in lines] == [([], "7")]


def test_at_debug_it_is_there_before_a_thread_can_ask_for_it() -> None:
    lines = lines_of(
        "configure_logging('debug', 'json', sys.stdout)\n"
        "Log().info('end', imported='structlog' in sys.modules)\n"
    )

    assert [line["imported"] for line in lines] == [True]
