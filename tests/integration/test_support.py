"""The tools of tests/support do what the fault tests rely on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError, TimeoutError as RedisTimeout

from convolab_worker.embedded import EmbeddedServer
from convolab_worker.settings import Settings
from tests.support.commandstats import counted_commands
from tests.support.markdown import ROOT
from tests.support.node import NodeScripts
from tests.support.proxy import TcpProxy
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

StartProxy = Callable[[EmbeddedServer], TcpProxy]
StartServer = Callable[..., ServerProcess]
SOON = 0.3
LATER = 20.0

pytest_plugins = ["pytester"]


@asynccontextmanager
async def client(url: str, *, patience: float = LATER) -> AsyncIterator[Redis]:
    """One connection that gives up after ``patience`` seconds and never tries again."""
    async with Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=patience,
        socket_connect_timeout=patience,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=True,
        protocol=2,
    ) as redis:
        yield redis


@pytest.mark.asyncio
async def test_proxy_passes_bytes_both_ways(
    server: EmbeddedServer, start_proxy: StartProxy, queue_name: str
) -> None:
    """Large values pass through the proxy unchanged, and its link counts them."""
    proxy = start_proxy(server)
    value = "x" * 1_000_000

    async with client(proxy.url) as redis:
        await redis.set(queue_name, value, ex=60)
        read = await redis.get(queue_name)
        links = proxy.links

    assert read == value
    assert len(links) == 1
    assert links[0].bytes_to_server > len(value)


@pytest.mark.asyncio
async def test_proxy_passes_the_last_bytes_of_a_connection() -> None:
    """What a server sends just before it closes still arrives, and then the end does."""
    value = b"x" * 300_000

    async def answer_and_close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(value)
        writer.close()
        await writer.wait_closed()

    farewell = await asyncio.start_server(answer_and_close, "127.0.0.1", 0)
    with TcpProxy(farewell.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        received = await asyncio.wait_for(reader.read(-1), LATER)
        writer.close()
        await writer.wait_closed()
        farewell.close()
        await farewell.wait_closed()

    assert received == value


@pytest.mark.asyncio
async def test_proxy_delays_each_direction(server: EmbeddedServer, start_proxy: StartProxy) -> None:
    """A delay is added to the request and to the reply."""
    proxy = start_proxy(server)
    loop = asyncio.get_running_loop()

    async with client(proxy.url) as redis:
        await redis.ping()
        proxy.delay(0.1)
        began = loop.time()
        await redis.ping()

    assert 0.2 <= loop.time() - began < LATER


@pytest.mark.asyncio
async def test_held_bytes_arrive_at_resume(
    server: EmbeddedServer, start_proxy: StartProxy, queue_name: str, redis: Redis
) -> None:
    """While the proxy holds, nothing arrives; after resume all of it does."""
    proxy = start_proxy(server)

    async with client(proxy.url) as through:
        await through.ping()
        proxy.hold()
        increment = asyncio.ensure_future(through.incr(queue_name))
        done, _ = await asyncio.wait([increment], timeout=SOON)
        before = await redis.get(queue_name)
        proxy.resume()
        after = await asyncio.wait_for(increment, LATER)

    assert not done
    assert before is None
    assert after == 1


@pytest.mark.asyncio
async def test_a_blackhole_is_silent_and_final_for_open_connections(
    server: EmbeddedServer, start_proxy: StartProxy
) -> None:
    """In a blackhole old and new connections hang; after it only new ones work."""
    proxy = start_proxy(server)

    async with client(proxy.url, patience=SOON) as old, client(proxy.url, patience=SOON) as new:
        await old.ping()
        proxy.blackhole()
        with pytest.raises(RedisTimeout):
            await old.ping()
        with pytest.raises(RedisTimeout):
            await new.ping()
        proxy.resume()

        async with client(proxy.url) as newest:
            assert await newest.ping()


@pytest.mark.asyncio
async def test_one_link_can_be_silenced_while_others_work(
    server: EmbeddedServer, start_proxy: StartProxy
) -> None:
    """Control of a single link leaves the others alone."""
    proxy = start_proxy(server)

    async with client(proxy.url, patience=SOON) as first, client(proxy.url) as second:
        await first.ping()
        await second.ping()
        proxy.links[0].set_mode("drop")
        with pytest.raises(RedisTimeout):
            await first.ping()

        assert await second.ping()


@pytest.mark.asyncio
async def test_a_cut_resets_connections(server: EmbeddedServer, start_proxy: StartProxy) -> None:
    """A cut connection fails at once, and new ones do too until the proxy resumes."""
    proxy = start_proxy(server)

    async with client(proxy.url) as old:
        await old.ping()
        proxy.cut(refuse=True)
        with pytest.raises(RedisConnectionError):
            await old.ping()
    with pytest.raises(RedisConnectionError):
        async with client(proxy.url) as refused:
            await refused.ping()
    proxy.resume()

    async with client(proxy.url) as new:
        assert await new.ping()


@pytest.mark.asyncio
@pytest.mark.parametrize(("cut", "error"), [(False, RedisTimeout), (True, RedisConnectionError)])
async def test_a_swallowed_reply_leaves_the_command_done(
    server: EmbeddedServer,
    start_proxy: StartProxy,
    queue_name: str,
    redis: Redis,
    cut: bool,  # noqa: FBT001 - a parameter of the test
    error: type[Exception],
) -> None:
    """Only the reply to the matching request is lost; the command itself has run."""
    proxy = start_proxy(server)

    async with client(proxy.url, patience=SOON) as through:
        await through.ping()
        swallowed = proxy.swallow_replies(1, matching=b"INCR", cut=cut)
        await through.ping()
        with pytest.raises(error):
            await through.incr(queue_name)

    assert swallowed.done.is_set()
    assert await redis.get(queue_name) == "1"


@pytest.mark.asyncio
async def test_a_suspended_server_answers_after_it_is_resumed(start_server: StartServer) -> None:
    """A frozen server keeps connections open, and answers when it goes on."""
    server = start_server()

    async with client(server.url) as redis:
        await redis.ping()
        server.suspend()
        ping = asyncio.ensure_future(redis.ping())
        done, _ = await asyncio.wait([ping], timeout=SOON)
        server.resume()

        assert not done
        assert await asyncio.wait_for(ping, LATER)


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_a_durable_server_keeps_its_data(start_server: StartServer, end: str) -> None:
    """What a durable server acknowledged is there after a kill or a stop, on the same port."""
    server = start_server(durable=True)
    url = server.url
    async with client(url) as redis:
        await redis.set("kept", "yes")

    getattr(server, end)()
    server.start()

    async with client(url) as redis:
        assert await redis.get("kept") == "yes"


@pytest.mark.asyncio
async def test_commands_are_counted_with_those_of_scripts(start_server: StartServer) -> None:
    """Counts hold what ran inside the block, in scripts too, and not the counting itself."""
    server = start_server(options={"maxclients": "50"})
    async with client(server.url) as redis, counted_commands(redis) as counts:
        await redis.set("key", "1")
        await redis.eval("redis.call('INCR', KEYS[1]) return redis.call('GET', KEYS[1])", 1, "key")

    assert counts.calls == {"set": 1, "eval": 1, "incr": 1, "get": 1}
    assert counts.total == 4


@pytest.mark.asyncio
async def test_waiting_names_what_did_not_happen() -> None:
    """A wait that ends in vain fails the test with what was waited for."""
    with pytest.raises(AssertionError, match="pigs fly did not come true within 0.05 s"):
        await wait_until(lambda: False, timeout=0.05, what="pigs fly")


@pytest.mark.asyncio
async def test_node_scripts_exchange_json(node: NodeScripts, tmp_path: Path) -> None:
    """A script gets its task and its answer comes back; one that fails shows its words."""
    (tmp_path / "echo.mjs").write_text(
        "process.stdin.once('data', (d) => {"
        " console.log(JSON.stringify({got: JSON.parse(d)})); process.exit(0) })"
    )
    (tmp_path / "broken.mjs").write_text("throw new Error('out of order')")
    scripts = type(node)(tmp_path)

    answer = await scripts.run("echo.mjs", {"text": "ümläut", "n": [1, 2]})
    with pytest.raises(AssertionError, match="out of order"):
        await scripts.run("broken.mjs")

    assert answer == {"got": {"text": "ümläut", "n": [1, 2]}}


def test_settings_are_for_this_test_alone(
    make_settings: Callable[..., Settings], server_url: str, queue_name: str
) -> None:
    """Settings name the shared server and the test's own queue, and take overrides."""
    settings = make_settings(concurrency=3)

    assert settings.redis_url == server_url
    assert settings.queues == (queue_name,)
    assert settings.concurrency == 3


@pytest.mark.parametrize("how", ["option", "variable"])
def test_skips_can_be_turned_into_failures(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """With the switch on, a skip in a test, a fixture or a whole module fails, with its reason."""
    pytester.makeconftest(
        "from tests.conftest import pytest_addoption, pytest_runtest_makereport\n"
        "from tests.conftest import pytest_make_collect_report\n"
    )
    pytester.makepyfile(
        test_inside="import pytest\ndef test_a(): pytest.skip('no node here')\n",
        test_module="import pytest\npytest.skip('no server here', allow_module_level=True)\n",
    )
    monkeypatch.setenv("FAIL_ON_SKIP", "1" if how == "variable" else "")
    options = ["-p", "no:asyncio", *(["--fail-on-skip"] if how == "option" else [])]

    result = pytester.runpytest(*options)

    result.stdout.fnmatch_lines(["*skips are failures here: *no server here*"])
    assert result.ret != 0
    result = pytester.runpytest("test_inside.py", *options)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*skips are failures here: *no node here*"])


STOPPED = """
import sys, time
from tests.support.stopwatch import Stopwatch
with Stopwatch() as watch:
    began = time.monotonic()
    time.sleep(0.3)
    print("asleep", watch.seconds, flush=True)
    sys.stdin.readline()
print(watch.seconds, time.monotonic() - began, flush=True)
"""


def test_a_stopwatch_counts_a_wait_and_not_a_pause_of_its_process() -> None:
    command = [sys.executable, "-c", STOPPED]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        slept = float(process.stdout.readline().split()[1])
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        process.send_signal(signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.close()
        counted, passed = map(float, process.stdout.readline().split())

    assert slept > 0.25
    assert counted < passed - 0.8


@pytest.mark.asyncio
async def test_a_wait_goes_on_after_a_pause() -> None:
    """What the pause has kept from happening has the rest of the time."""
    looks = 0

    def stand_still() -> bool:
        nonlocal looks
        looks += 1
        time.sleep(0.3)
        return looks > 3

    await wait_until(stand_still, timeout=0.9)
