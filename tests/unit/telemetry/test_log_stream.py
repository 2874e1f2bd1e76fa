"""The log's stream: lines in a rush together, none late, none twice, none lost at the end."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

from convolab_worker.telemetry.log_stream import LogStream


def written(descriptor: int) -> bytes:
    """Return what is in a pipe now."""
    return os.read(descriptor, 1_000_000)


def test_a_rush_of_lines_is_written_together_and_a_warning_takes_them_along() -> None:
    """The first line is written at once, those behind it together, a warning waits for nothing."""
    read, write = os.pipe()
    stream = LogStream(os.fdopen(write, "w"))

    stream.info(b"first\n")
    first = written(read)
    for _ in range(20):
        stream.info(b"more\n")
    stream.warning(b"trouble\n")
    rest = written(read)

    os.close(read)
    assert (first, rest) == (b"first\n", b"more\n" * 20 + b"trouble\n")


def test_lines_that_wait_are_written_without_another_line() -> None:
    """What a rush left is in the file soon, although nothing more is logged."""
    read, write = os.pipe()
    stream = LogStream(os.fdopen(write, "w"))

    stream.info(b"first\n")
    stream.info(b"second\n")

    with os.fdopen(read, "rb") as reader:
        assert reader.readline() == b"first\n"
        assert reader.readline() == b"second\n"


def test_lines_for_a_stream_in_memory_do_not_wait() -> None:
    """Only what has a descriptor gathers lines."""
    stream = io.StringIO()
    log = LogStream(stream)

    log.info(b"first\n")
    log.info(b"second\n")

    assert stream.getvalue() == "first\nsecond\n"


def run(program: str, log: Path) -> int:
    """Run a program whose standard error is a file; return its exit code."""
    with log.open("wb") as stream:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], stderr=stream, check=False, timeout=60
        )
    return done.returncode


def test_a_process_that_ends_has_written_all_its_lines(tmp_path: Path) -> None:
    """Nothing is lost at exit, and a forked child writes no line of its parent again."""
    program = """
        import os
        import structlog
        from convolab_worker.telemetry.logging import configure_logging

        configure_logging("info", "json")
        log = structlog.get_logger()
        for number in range(50):
            log.info("parent", number=number)
        if (child := os.fork()) == 0:
            log.info("child")
            os._exit(0 if log.warning("child.ends") is None else 1)
        os.waitpid(child, 0)
        log.info("parent.ends")
    """

    assert run(program, tmp_path / "log") == 0

    lines = (tmp_path / "log").read_text().splitlines()
    assert sum('"parent"' in line for line in lines) == 50
    assert [sum(f'"{event}"' in line for line in lines) for event in ("child", "parent.ends")] == [
        1,
        1,
    ]


def test_a_full_disk_harms_nobody() -> None:
    """Lines for a device that takes nothing are lost, and no call raises."""
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        stream = LogStream(full)
        stream.warning(b"lost\n")
        stream.info(b"lost\n")
        stream.flush()


def test_a_pipe_that_does_not_block_gets_every_line() -> None:
    """A reader that is behind is waited for, as long as it reads."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    line = b"x" * 999 + b"\n"
    got: list[bytes] = []

    def reading() -> None:
        while data := os.read(read, 4096):
            got.append(data)

    reader = threading.Thread(target=reading)
    reader.start()
    with os.fdopen(write, "w") as stream:
        log = LogStream(stream)
        for _ in range(500):
            log.warning(line)
    reader.join()

    os.close(read)
    assert b"".join(got) == line * 500
