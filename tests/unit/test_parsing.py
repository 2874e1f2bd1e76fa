"""A test that fails is told of, whatever the garbage collector finds while its file is parsed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
# Each collection finds an object that formats a traceback when it goes, and makes another one.
_FAILING = """
import gc
import traceback


class Told:
    def __init__(self):
        self.me = self

    def __del__(self):
        try:
            things = {}
            return 1 + things["a"]["b"] + things["c"]
        except KeyError as error:
            traceback.format_exception(error)


def again(phase, _):
    if phase == "stop":
        Told()


def test_fails():
    gc.callbacks.append(again)
    gc.set_threshold(50)
    assert 1 + 1 == 3
"""


def test_a_failure_is_told_although_garbage_is_collected_while_its_file_is_parsed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11.7 says SystemError where ast.parse runs within itself."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    pytester.makeconftest(
        "import hypothesis\n"
        "from tests.support.parsing import parse_undisturbed\n"
        "parse_undisturbed()\n"
    )
    pytester.makepyfile(_FAILING)

    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert (1 + 1) == 3*"])
