"""The Redis protocol, version 2: finds where one command or reply ends and the next begins."""

from __future__ import annotations

import hiredis

_LINES = frozenset(b"+-:")


class Frames:
    """Cuts a stream of bytes into whole commands, or whole replies."""

    def __init__(self) -> None:
        self._left = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the frames that are whole with these bytes."""
        data, begun, frames = self._left + chunk, 0, []
        while (end := _end(data, begun)) is not None:
            frames.append(data[begun:end])
            begun = end
        self._left = data[begun:]
        return frames


def arguments(command: bytes) -> list[bytes]:
    """Return the arguments of a whole command, its name first."""
    reader = hiredis.Reader()
    reader.feed(command)
    found: list[bytes] = reader.gets()
    return found


def _end(data: bytes, at: int) -> int | None:
    """Return where the frame ends that begins at ``at``; None if it is not whole yet."""
    end = _line_end(data, at)
    if end is None or data[at] in _LINES:
        return end
    size = int(data[at + 1 : end - 2])
    if data[at] == ord("$"):
        end += size + 2 if size >= 0 else 0
        return end if end <= len(data) else None
    for _ in range(size):
        following = _end(data, end)
        if following is None:
            return None
        end = following
    return end


def _line_end(data: bytes, at: int) -> int | None:
    found = data.find(b"\r\n", at)
    return None if found < 0 else found + 2
