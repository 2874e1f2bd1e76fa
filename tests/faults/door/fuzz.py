"""``python -m tests.faults.door.fuzz``: mutated requests, as raw bytes at a wake server's socket.

Each is a right request with some bytes changed, lost, repeated or taken from a list of what servers
stumble over. Whatever is sent, each answer has to be the server's own, below 500, and counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import secrets
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from convolab_worker.embedded import EmbeddedServer
from tests.faults.door.target import Answer, Target
from tests.support.waiting import wait_until

TOKEN = "s3cret-t0ken"
_HEAD = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
_CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"
SEEDS = [
    text.encode()
    for text in (
        f"GET /wake HTTP/1.1\r\n{_HEAD}\r\n",
        f"POST /wake HTTP/1.1\r\n{_HEAD}Content-Length: 5\r\n\r\nhello",
        f"POST /wake HTTP/1.1\r\n{_HEAD}{_CHUNKED}5\r\nhello\r\n0\r\n\r\n",
        f"POST /wake HTTP/1.1\r\n{_HEAD}{_CHUNKED}5;a=b\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
        f"GET /wake?hold=1s HTTP/1.1\r\n{_HEAD}Accept: application/x-ndjson\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /readyz HTTP/1.0\r\n\r\n",
        f"GET /metrics HTTP/1.1\r\n{_HEAD}Accept-Encoding: gzip\r\n\r\n",
        f"GET / HTTP/1.1\r\n{_HEAD}Accept: text/html\r\n\r\n",
        f"GET /events HTTP/1.1\r\n{_HEAD}Last-Event-ID: 7\r\n\r\n",
        "HEAD /openapi.json HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-1\r\n\r\n",
        f"POST /wake HTTP/1.1\r\n{_HEAD}Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
        f"GET /wake HTTP/1.1\r\n{_HEAD}Connection: upgrade\r\nUpgrade: websocket\r\n\r\nxyz",
        f"OPTIONS * HTTP/1.1\r\n{_HEAD}\r\n",
        f"CONNECT localhost:80 HTTP/1.1\r\n{_HEAD}\r\n",
        f"GET http://localhost/healthz HTTP/1.1\r\n{_HEAD}\r\n",
    )
]
_NASTY = [
    b"\x00", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\xbd", b"\xff\xfe", b" ", b"\t", b":", b"%",
    b"%00", b"%zz", b"//", b"/../", b"?", b"#", b"[", b"]", b"@", b"::1", b"0x10", b"-1", b"+5",
    b"9" * 30, b"\xd9\xa1", b"\xed\xa0\x80", b"A" * 9000, b"HTTP/9.9", b"HTTP/1.0",
    b"PRI * HTTP/2.0\r\n\r\n",
    b"Expect: \xbd\r\n", b"Expect: 100-continue\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n",
    b"Content-Encoding: gzip\r\n", b"Content-Encoding: br\r\n", b"Content-Type: \xff/;=\r\n",
    b"Connection: close\r\n", b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b"Host: [\r\n",
    b"X-Forwarded-For: \xff,,\r\n", b"Host: \xff\r\n", b"Origin: null\r\n", b" folded\r\n",
    b"X-A: b\r\n" * 150, b"\x16\x03\x01\x02\x00\x01",
]  # fmt: skip
_HEADER_LINES = [line for line in _NASTY if line.endswith(b"\r\n") and b": " in line]
_AT_ONCE = 24


def mutated(chance: random.Random) -> bytes:
    """Return a right request with some changes, or two of them run together."""
    data = bytearray(chance.choice(SEEDS))
    if chance.random() < 0.1:
        data += chance.choice(SEEDS)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5))):
        at = chance.randrange(len(data) + 1)
        until = min(at + chance.randint(1, 8), len(data))
        match chance.randrange(9):
            case 0 | 1:
                data[at:until] = chance.randbytes(until - at)
            case 2:
                del data[at:until]
            case 3:
                data[at:at] = data[at : at + chance.randint(1, 200)]
            case 4:
                data[at:at] = chance.choice(_NASTY)
            case 5 | 6 | 7:  # a header of its own
                line = data.find(b"\r\n", at) + 2
                data[line:line] = chance.choice(_HEADER_LINES)
            case _:
                del data[at + chance.randint(0, 400) :]
    return bytes(data)


async def fuzz(target: Target, chance: random.Random, requests: int) -> Counter[int]:
    """Send them, a few at once; return the answers by status. Fails where one is not as it must."""
    seen: Counter[int] = Counter()
    left = iter(range(requests))

    async def client() -> None:
        for _ in left:
            data = mutated(chance)
            try:
                answers = await target.send(data, half_close=True)
            except ConnectionError:  # it was told off before it had sent all
                continue
            except TimeoutError:
                pytest.fail(f"no end of the answer to {data!r}")
            for answer in answers:
                _expect_ours(answer, data)
                seen[answer.status] += 1

    await asyncio.gather(*[client() for _ in range(_AT_ONCE)])
    return seen


def _expect_ours(answer: Answer, data: bytes) -> None:
    assert answer.status < 500, (answer, data)
    assert answer.headers.get("server") == "convolab-worker", (answer, data)
    assert answer.headers.get("x-content-type-options") == "nosniff", (answer, data)
    assert TOKEN.encode() not in answer.body, (answer, data)
    if answer.status >= 400 and answer.body and "html" not in answer.headers["content-type"]:
        assert isinstance(json.loads(answer.body)["error"], str), (answer, data)


async def counted(target: Target) -> Counter[int]:
    """Return how many answers the server has counted, by status."""
    token = f"Authorization: Bearer {TOKEN}"
    text = (await target.get("/metrics", token)).body.decode()
    found: Counter[int] = Counter()
    for line in text.splitlines():
        if line.startswith("convolab_worker_http_requests_total{"):
            found[int(line.split('status="')[1][:3])] += int(float(line.rsplit(" ", 1)[1]))
    return found


async def check(target: Target, seed: int, requests: int) -> Counter[int]:
    """Fuzz the target, and hold its counts and its log against what was seen."""
    before = await counted(target)
    try:
        seen = await fuzz(target, random.Random(seed), requests)
    except AssertionError as error:
        error.add_note(f"seed {seed}; in its log: {target.troubles()[:3]}")
        raise
    after = await counted(target)
    before[200] -= 1  # each look at the metrics is counted after it
    missing = {
        status: (number, after[status] - before[status])
        for status, number in seen.items()
        if after[status] - before[status] < number
    }
    assert not missing, f"seen and counted, by status: {missing}"
    assert not target.troubles()
    assert TOKEN not in target.process.text()
    await wait_until(lambda: _is_well(target), what="health")
    return seen


async def _is_well(target: Target) -> bool:
    return (await target.get("/healthz")).status == 200


async def main(requests: int, seed: int) -> None:
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as folder:
        variables = {"CONVOLAB_WAKE_TOKEN": TOKEN, "CONVOLAB_WAKE_RATE": "1000000"}
        async with Target(server.url, "fuzz", Path(folder) / "log", **variables) as target:
            seen = await check(target, seed, requests)
    by_status = ", ".join(f"{status}: {number}" for status, number in sorted(seen.items()))
    sys.stdout.write(f"{requests} requests, seed {seed}; answers by status: {by_status}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Mutated requests at a wake server's socket.")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    chosen = secrets.randbits(32) if given.seed is None else given.seed
    asyncio.run(main(given.requests, chosen))
