"""What the Python contenders share: their arguments, and lines of JSON with the benchmark."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """A contender's command line: URL, queues, concurrency and options of its own."""

    url: str
    queues: tuple[str, ...]
    concurrency: int
    options: dict[str, Any]

    @classmethod
    def from_argv(cls) -> Arguments:
        """Read the four positional arguments that the benchmark passes."""
        url, queues, concurrency, options = sys.argv[1:]
        return cls(
            url=url,
            queues=tuple(queues.split(",")),
            concurrency=int(concurrency),
            options=json.loads(options),
        )


def emit(event: str, **fields: object) -> None:
    """Tell the benchmark something, on one line."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


_kept: list[float] = []


async def act(data: object) -> None:
    """Do what a job's data asks for: say or keep how long it waited, sleep, or nothing.

    A job that carries its sending time could start then or, delayed, as long after it as its data
    says. Both ends read the machine's monotonic clock, in nanoseconds.
    """
    if not isinstance(data, dict):
        return
    if "sentAt" in data:
        delay_ms = (time.monotonic_ns() - data["sentAt"]) / 1e6 - data["delay"]
        if data.get("keep"):
            _kept.append(delay_ms)
        else:
            emit("started", delay_ms=delay_ms, number=data["number"])
    if data.get("sleep"):
        await asyncio.sleep(data["sleep"] / 1000)


async def answer_until_closed() -> None:
    """Answer the benchmark's questions until it closes our standard input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        op = json.loads(line)["op"]
        if op == "kept":
            emit("kept", delays_ms=_kept)
            _kept.clear()
        elif op == "usage":
            used = resource.getrusage(resource.RUSAGE_SELF)
            emit("usage", cpu_seconds=used.ru_utime + used.ru_stime)
