"""The proxy that fails at the n-th command of a name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.model.bench import ModelBench
from tests.support.resp import Frames, arguments
from tests.support.scripted import SCRIPTS, ScriptedProxy, Trouble

COMMANDS = b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n"
REPLIES = b"+OK\r\n$-1\r\n*3\r\n:1\r\n*-1\r\n$2\r\n\r\n\r\n*0\r\n-ERR no\r\n"


@pytest.fixture
def proxy(bench: ModelBench) -> Iterator[ScriptedProxy]:
    """A proxy before the bench's server."""
    with ScriptedProxy(bench.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: ScriptedProxy) -> Iterator[Any]:
    """A client that asks once."""
    with Redis.from_url(
        proxy.url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=0.3
    ) as client:
        yield client


@pytest.mark.parametrize("size", range(1, len(REPLIES)))
def test_frames_are_whole_however_they_arrive(size: int) -> None:
    """A stream is cut where commands and replies end, whatever the chunks are."""
    for stream, count in ((COMMANDS, 2), (REPLIES, 5)):
        frames = Frames()
        found = [
            frame
            for at in range(0, len(stream), size)
            for frame in frames.feed(stream[at : at + size])
        ]
        assert b"".join(found) == stream
        assert len(found) == count


def test_a_command_is_its_arguments() -> None:
    """Line ends within an argument are its own."""
    ping, get = Frames().feed(COMMANDS)

    assert arguments(ping) == [b"PING"]
    assert arguments(get) == [b"GET", b"\r\n"]


@pytest.mark.parametrize(("after", "ran"), [(False, 1), (True, 2)])
def test_the_second_command_is_cut_before_or_after_it_ran(
    bench: ModelBench, proxy: ScriptedProxy, client: Any, *, after: bool, ran: int
) -> None:
    """The caller sees the same; the server does not."""
    bench.redis.delete("count")
    proxy.arm(Trouble("cut", "INCRBY", after=after, nth=2))

    client.incr("count")
    with pytest.raises(exceptions.ConnectionError):
        client.incr("count")

    assert int(bench.redis.get("count")) == ran
    assert client.incr("count") == ran + 1


def test_a_script_goes_by_its_name(bench: ModelBench, proxy: ScriptedProxy, client: Any) -> None:
    """A plan names scripts, not their digests."""
    sha = next(sha for sha, name in SCRIPTS.items() if name == "getCounts")
    bench.load_scripts()
    proxy.arm(Trouble("error", "getCounts"))

    with pytest.raises(exceptions.ResponseError, match="the test says so"):
        client.evalsha(sha, 1, "bull:none:", "wait")
    assert client.evalsha(sha, 1, "bull:none:", "wait") == [0]


def test_errors_keep_their_place_in_a_pipeline(proxy: ScriptedProxy, client: Any) -> None:
    """Each reply belongs to its command."""
    proxy.arm(Trouble("error", "PING"))
    pipeline = client.pipeline(transaction=False)
    pipeline.echo("one").ping().echo("two")

    one, refused, two = pipeline.execute(raise_on_error=False)

    assert (one, two) == (b"one", b"two")
    assert isinstance(refused, exceptions.ResponseError)


def test_a_stall_ends_by_itself(proxy: ScriptedProxy, client: Any) -> None:
    """The reply is late, and complete."""
    client.ping()
    proxy.arm(Trouble("stall", "ECHO", seconds=0.1))
    began = time.monotonic()

    assert client.echo("late") == b"late"
    assert time.monotonic() - began >= 0.1


@pytest.mark.parametrize("what", ["silence", "refuse"])
def test_harm_ends_when_the_proxy_heals(proxy: ScriptedProxy, client: Any, what: Any) -> None:
    """A silent connection is reset, and a new one works."""
    proxy.arm(Trouble(what, "PING", seconds=60.0))
    with pytest.raises((exceptions.TimeoutError, exceptions.ConnectionError)):
        client.ping()

    proxy.heal()

    assert client.ping()
    assert [trouble.what for trouble in proxy.done] == [what]
