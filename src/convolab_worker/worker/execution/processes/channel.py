"""What a worker and one of its handler processes say to each other: pickled tuples, each whole.

================================  ==================================================
the worker                        the process
================================  ==================================================
``run, handler, kind, job``
..                                ``started``: the handler is imported, and is called
..                                ``progress, JSON`` and ``log, level, event, fields``
..                                ``ask, name, arguments``
``answer, value`` or
``refused, exception``
..                                ``returned, JSON, bytes`` of memory, or
                                  ``raised, pickled, text, stack, bytes``
closes                            ends
================================  ==================================================

A signal tells a process that its job is to end: SIGINT to itself, SIGTERM to what it started.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import threading
from typing import Any

_LENGTH = struct.Struct("!Q")
# A longer message is not copied to stand behind its length.
_SHORT = 1 << 16


class Channel:
    """One end of a stream socket. Any thread may send; one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._reader = end.makefile("rb", buffering=_SHORT)
        self._lock = threading.Lock()
        self._within: float | None = None

    def send(self, *message: Any) -> None:
        """Send a message. Raises OSError if nobody is there."""
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        length = _LENGTH.pack(len(body))
        with self._lock:
            if len(body) <= _SHORT:
                self._socket.sendall(length + body)
            else:
                self._socket.sendall(length)
                self._socket.sendall(body)

    def receive(self, within: float | None = None) -> tuple[Any, ...]:
        """Receive a message. Raises EOFError if none comes any more, TimeoutError if none is there.

        After a TimeoutError the channel can't be used.
        """
        if within != self._within:
            self._within = within
            self._socket.settimeout(within)
        try:
            length = self._read(_LENGTH.size)
            body = self._read(*_LENGTH.unpack(length))
        except TimeoutError:
            raise
        except OSError as error:
            raise EOFError from error
        message: tuple[Any, ...] = pickle.loads(body)  # noqa: S301 - from our own process
        return message

    def _read(self, size: int) -> bytes:
        read: bytes = self._reader.read(size)
        if len(read) < size:
            raise EOFError
        return read

    def finish(self) -> None:
        """Say that no message comes any more."""
        self._socket.shutdown(socket.SHUT_WR)

    def forget(self) -> None:
        """Close it in a fork of this process: no lock is waited for, which a thread may hold."""
        if (descriptor := self._socket.detach()) >= 0:
            os.close(descriptor)

    def close(self) -> None:
        self._reader.close()
        self._socket.close()
