"""Standard streams that can't be written, or are not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.markdown import ROOT

COMMAND = f"{sys.executable} -m convolab_worker"


def _ends(command: str) -> tuple[int, str]:
    """The exit code of a shell's command, and what it wrote."""
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env={"PYTHONPATH": str(ROOT / "src")},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("lines", ["2>/dev/full", "2>&-"])
def test_wrong_usage_is_wrong_usage_where_it_can_not_be_told(lines: str) -> None:
    assert _ends(f"{COMMAND} enqueue name '{{bad' {lines}") == (2, "")


def test_a_command_that_was_started_without_an_output_does_its_work() -> None:
    code, written = _ends(f"{COMMAND} completion bash >&-")

    assert (code, written) == (0, "")
