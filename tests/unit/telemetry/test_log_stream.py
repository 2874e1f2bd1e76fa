"""The log's stream: lines in a rush together, none late, none twice, none lost at the end."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import pytest

from convolab_worker.telemetry import log_stream
from convolab_worker.telemetry.log_stream import LogStream


def written(descriptor: int) -> bytes:
    """Return what is in a pipe now."""
    return os.read(descriptor, 1_000_000)


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """Both ends of a pipe: the descriptor to read from, the stream to write to."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        yield read, stream
    os.close(read)


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


def test_lines_that_are_formed_late_keep_their_place(pipe: tuple[int, TextIO]) -> None:
    read, file = pipe
    stream = LogStream(file, lambda numbers: b"".join(b"%d\n" % number for number in numbers))

    stream.write_soon(1)
    first = written(read)
    for line in (2, b"two\n", 3, 4):
        stream.write_soon(line)
    stream.write_now(b"trouble\n")

    assert (first, written(read)) == (b"1\n", b"2\ntwo\n3\n4\ntrouble\n")


def test_a_long_line_waits_for_no_other_and_many_short_ones_not_for_their_time(
    pipe: tuple[int, TextIO],
) -> None:
    read, file = pipe
    stream = LogStream(file)
    stream.info(b"first\n")

    stream.info(b"short\n")
    stream.info(b"x" * 5_000 + b"\n")
    long = written(read)
    for _ in range(301):
        stream.info(b"more\n")
    many = written(read)

    assert long == b"first\nshort\n" + b"x" * 5_000 + b"\n"
    assert many == b"more\n" * 301


def test_lines_of_many_threads_are_all_there_once_and_each_thread_s_in_its_order(
    tmp_path: Path,
) -> None:
    threads, lines = 8, 2_000
    with (tmp_path / "log").open("w") as file:
        stream = LogStream(file)

        def tell(number: int) -> None:
            for line in range(lines):
                (stream.warning if line % 97 == 0 else stream.info)(b"%d %d\n" % (number, line))

        tellers = [threading.Thread(target=tell, args=(number,)) for number in range(threads)]
        for teller in tellers:
            teller.start()
        for teller in tellers:
            teller.join()
        stream.flush()

    told = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len(told) == threads * lines
    for number in range(threads):
        assert [int(line) for who, line in told if who == str(number)] == list(range(lines))


def test_a_signal_that_logs_between_any_two_steps_of_a_write_loses_and_doubles_nothing(
    pipe: tuple[int, TextIO],
) -> None:
    """Its handler runs wherever the main thread stands, and so may another thread's flush."""
    read, file = pipe
    stream = LogStream(file)
    stream.info(b"first\n")
    expected, steps, interrupted = [b"first"], 0, 0

    def step(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != log_stream.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == interrupted:
                stream.warning(b"signal %d\n" % interrupted)
        return step

    earlier = sys.gettrace()
    # Python 3.12 looks for this when tracing begins, and not afterwards.
    sys._getframe().f_trace_opcodes = True  # noqa: SLF001 - its documented use
    while steps >= interrupted:
        interrupted, steps = interrupted + 1, 0
        lines = [b"%d %s" % (interrupted, name) for name in (b"a", b"b", b"c")]
        sys.settrace(step)
        for line in lines:
            stream.info(line + b"\n")
        stream.flush()
        sys.settrace(earlier)
        expected += lines
        if steps >= interrupted:
            expected.append(b"signal %d" % interrupted)

    assert interrupted > 100
    assert sorted(written(read).splitlines()) == sorted(expected)


def test_where_the_system_gives_no_thread_no_line_waits_for_one(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, TextIO]
) -> None:
    def refused(_: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    read, file = pipe
    stream = LogStream(file)
    monkeypatch.setattr(threading.Thread, "start", refused)

    stream.info(b"first\n")
    stream.info(b"second\n")

    assert written(read) == b"first\nsecond\n"


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
