"""``run`` under systemd: readiness, the watchdog, and the unit that deploy/ has."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from convolab_worker import Settings
from convolab_worker.cli.commands.run.systemd import Systemd
from tests.support.commands import Commands
from tests.support.markdown import ROOT

JOBS = """
import time
from convolab_worker import HandlerRegistry

handlers = HandlerRegistry()

@handlers.audio("block")
async def block(job):
    time.sleep(job.data["seconds"])
"""
SOON = 20.0


class Manager:
    """The notification socket as systemd has it."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)  # noqa: FBT003

    async def told(self) -> str:
        """The next state that a unit tells."""
        loop = asyncio.get_running_loop()
        return (await asyncio.wait_for(loop.sock_recv(self._socket, 4096), SOON)).decode()

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()


@pytest_asyncio.fixture
async def commands(tmp_path: Path, make_settings: Any) -> AsyncIterator[Commands]:
    """Commands in a folder with handlers."""
    settings: Settings = make_settings()
    (tmp_path / "jobs.py").write_text(JOBS)
    commands = Commands(tmp_path, settings.redis_url, settings.queues[0])
    yield commands
    await commands.close()


@pytest.mark.asyncio
async def test_systemd_hears_that_it_is_ready_alive_and_stopping(
    commands: Commands, tmp_path: Path
) -> None:
    """In this order, and once each but for the watchdog's."""
    manager = Manager(tmp_path / "notify")
    process = await commands.start(
        *("run", "--app", "jobs:handlers"), NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="200000"
    )

    first = [await manager.told() for _ in range(4)]
    process.send(signal.SIGTERM)
    rest = []
    while "STOPPING=1" not in rest:
        rest.append(await manager.told())
    code, _, _ = await process.ended()

    manager.close()
    assert first == ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]
    assert set(rest) <= {"WATCHDOG=1", "STOPPING=1"}
    assert code == 0


@pytest.mark.asyncio
async def test_it_is_ready_although_redis_is_away(commands: Commands, tmp_path: Path) -> None:
    """The worker waits for Redis by itself: systemd must not end it for that."""
    manager = Manager(tmp_path / "notify")

    process = await commands.start(
        *("run", "--app", "jobs:handlers"),
        NOTIFY_SOCKET=manager.address,
        REDIS_URL="redis://127.0.0.1:1",
    )
    told = await manager.told()

    await process.stopped()
    manager.close()
    assert told == "READY=1"


@pytest.mark.asyncio
async def test_it_ends_when_nothing_has_happened_for_so_long(commands: Commands) -> None:
    """With 0, and not while a job runs."""
    code, _, err = await commands.run("enqueue", "block", '{"seconds": 1.5}')
    assert code == 0, err

    process = await commands.start("run", "--app", "jobs:handlers", "--exit-when-idle", "1s")
    code, _, log = await process.ended()

    assert code == 0
    assert log.index('"job.completed"') < log.index('"worker.stopping"')


def test_a_process_that_is_no_unit_tells_nothing() -> None:
    """Neither without a socket, nor with an address that is none."""
    assert Systemd.from_env({}) is None
    assert Systemd.from_env({"NOTIFY_SOCKET": "tcp:1.2.3.4"}) is None
    unwatched = Systemd.from_env({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "0"})
    anothers = Systemd.from_env({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"})
    ours = Systemd.from_env(
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    )
    watchdogs = [each and each.watchdog for each in (unwatched, anothers, ours)]
    assert watchdogs == [None, None, 3.0]


def test_nobody_listening_is_no_failure(tmp_path: Path) -> None:
    """The manager may be gone."""
    Systemd(str(tmp_path / "gone"), None).tell("READY=1")


def test_the_unit_is_one_that_systemd_accepts(tmp_path: Path) -> None:
    """By systemd's own check, with the program where the unit expects it."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on this machine")
    unit = (ROOT / "deploy" / "systemd" / "convolab-worker.service").read_text(encoding="utf-8")
    program = tmp_path / "convolab-worker"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    placed = tmp_path / "convolab-worker.service"
    placed.write_text(unit.replace("/opt/lessons/.venv/bin/convolab-worker", str(program)))

    done = subprocess.run(
        [analyze, "verify", "--man=no", str(placed)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
