"""Our own Lua scripts: what several of them do stands in one file that they include."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import convolab_worker
from convolab_worker.bullmq.protocol.scripts import script

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
