"""A worker, its server and its callers in a network namespace of their own, and its packets.

``unshare --net python -m tests.integration.platforms.alone_on_a_network MODE SECONDS`` prints, as
one line of JSON, how many packets the namespace had while the worker slept for so long, how many
while it was woken for a job, and how many in the same time while a worker that never sleeps waited.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from convolab_worker import JobClient, Settings
from convolab_worker.embedded import EmbeddedServer
from examples.benchmarks.benchkit.server import free_port
from tests.support.logged import RUN, LoggedProcess
from tests.support.server import server_program
from tests.support.waiting import wait_until

_APP = """
from convolab_worker import HandlerRegistry

handlers = HandlerRegistry()

@handlers.audio("work")
async def work(job):
    return None
"""
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def raise_loopback() -> None:
    """Bring the namespace's own loopback device up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        fcntl.ioctl(device, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def packets() -> int:
    """How many packets the namespace's devices have sent."""
    devices = Path("/proc/net/dev").read_text().splitlines()[2:]
    return sum(int(line.partition(":")[2].split()[9]) for line in devices)


async def counted(mode: str, seconds: float) -> dict[str, Any]:
    """Packets of the three times."""
    folder = Path(tempfile.mkdtemp(prefix="alone-"))
    (folder / "jobs.py").write_text(_APP)
    with EmbeddedServer(program=server_program()) as server:
        environ = {
            "CONVOLAB_IDLE_MAX": "0.2s",
            "CONVOLAB_IDLE_MIN": "0.2s",
            "CONVOLAB_QUEUES": "q",
            "PORT": str(free_port()),
            "PYTHONPATH": str(folder),
            "REDIS_URL": server.url,
        }
        sleeps = {"CONVOLAB_SLEEP_AFTER": "0.2s", "CONVOLAB_WAKE_MODE": mode}
        command = (*RUN, "--wake", "--app", "jobs:handlers")
        worker = LoggedProcess(command, {**environ, **sleeps}, folder / "log")
        await worker.says("worker.asleep", within=30)
        asleep = await during(seconds)
        before = packets()
        async with JobClient(Settings(redis_url=server.url, queues=("q",))) as client:
            job_id = await client.enqueue("work", {})
            url = f"http://127.0.0.1:{environ['PORT']}/wake?hold=10s"
            async with ClientSession() as session, session.post(url) as answer:
                status = (await answer.json())["status"]
            state = (await client.status(job_id)).state
        woken = packets() - before
        await wait_until(lambda: len(worker.events("worker.asleep")) > 1, what="sleep again")
        asleep_again = await during(1.0)
        worker.kill()
        other = LoggedProcess((*RUN, "--app", "jobs:handlers"), environ, folder / "other")
        await other.says("worker.started", within=30)
        awake = await during(1.0)
        other.kill()
    return {
        "asleep": asleep, "woken": woken, "asleep_again": asleep_again, "awake": awake,
        "status": status, "state": state,
    }  # fmt: skip


async def during(seconds: float) -> int:
    """How many packets were sent in that time."""
    await asyncio.sleep(0.5)  # the last acknowledgements
    before = packets()
    await asyncio.sleep(seconds)
    return packets() - before


if __name__ == "__main__":
    raise_loopback()
    print(json.dumps(asyncio.run(counted(sys.argv[1], float(sys.argv[2])))))  # noqa: T201
