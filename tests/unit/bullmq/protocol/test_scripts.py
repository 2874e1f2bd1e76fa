"""Our own Lua scripts: what several of them do stands in one file that they include."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import convolab_worker
from convolab_worker.bullmq.protocol.scripts import bullmqs_script, script

LUA = Path(next(iter(convolab_worker.__path__))) / "bullmq" / "lua"
HEAD = re.compile(r"\A--\[\[.*?\]\]\n", re.DOTALL)
LINES = 4


def test_no_four_lines_stand_in_two_scripts() -> None:
    places: dict[tuple[str, ...], set[str]] = {}
    for file in LUA.glob("*.lua"):
        lines = [line.strip() for line in HEAD.sub("", file.read_text("utf-8")).splitlines()]
        code = [line for line in lines if line and not line.startswith("--")]
        for start in range(len(code) - LINES + 1):
            places.setdefault(tuple(code[start : start + LINES]), set()).add(file.name)

    assert places
    assert {lines: sorted(files) for lines, files in places.items() if len(files) > 1} == {}


def test_an_include_is_of_our_own_scripts_or_bullmqs_and_nothing_is_left_of_it() -> None:
    text = script("addStandardJobNamed").text

    assert HEAD.sub("", (LUA / "jobExisted-0.lua").read_text("utf-8")) in text
    assert script("addStandardJob").text in text
    includes = itertools.chain.from_iterable(
        re.findall(r'^--- @include "\w+"$', script(name).text, re.MULTILINE)
        for name in (file.stem.rpartition("-")[0] for file in LUA.glob("*.lua"))
    )
    assert [*includes] == []


def test_ours_stand_before_the_scripts_of_the_bullmq_that_is_installed() -> None:
    for name in ("moveToActive", "moveToFinished"):
        text, bullmqs = script(name).text, bullmqs_script(name).text

        assert text.rstrip().endswith(bullmqs.rstrip())
        assert text != bullmqs


def test_ours_do_not_stand_before_a_script_that_bullmq_has_changed(tmp_path: Path) -> None:
    """Nobody has compared them with it: the other one goes on as it is, and is counted."""
    spec = importlib.util.find_spec("bullmq")
    assert spec is not None
    assert spec.submodule_search_locations
    other = tmp_path / "bullmq"
    other.mkdir()
    (other / "__init__.py").touch()
    installed = Path(spec.submodule_search_locations[0])
    shutil.copytree(installed / "commands", other / "commands")
    with (other / "commands" / "moveToActive-11.lua").open("a", encoding="utf-8") as changed:
        changed.write("\n-- changed")
    code = (
        "from convolab_worker.bullmq.protocol.scripts import bullmqs_script, counted_script\n"
        "from convolab_worker.bullmq.protocol.scripts import script\n"
        "both = ('moveToActive', 'moveToFinished')\n"
        "print([script(name) is bullmqs_script(name) for name in both],"
        " [counted_script(name).text.count(script('countCalls').text) for name in both])"
    )

    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )

    assert told.stdout.strip() == "[True, False] [1, 1]"
