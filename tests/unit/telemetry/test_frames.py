"""Which line of a stack is the application's."""

from __future__ import annotations

import asyncio
import json
import sysconfig
import traceback
from pathlib import Path

import pytest

import convolab_worker
from convolab_worker.telemetry.frames import application_place_in, sections_of

STDLIB = sysconfig.get_path("stdlib")
OURS = str(Path(convolab_worker.__file__).parent)
SITE = "/venv/lib/python3.11/site-packages"


def stack(*files: str) -> str:
    """Return a traceback through these files, the outermost first."""
    lines = [f'  File "{file}", line {n}, in f{n}\n    call()' for n, file in enumerate(files, 1)]
    return "Traceback (most recent call last):\n" + "\n".join(lines) + "\nValueError: no\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ((), None),
        (("/app/a.py",), "/app/a.py:1 in f1"),
        (("/app/a.py", f"{STDLIB}/asyncio/tasks.py"), "/app/a.py:1 in f1"),
        (("/app/a.py", "/app/b.py", f"{SITE}/httpx/_client.py"), "/app/b.py:2 in f2"),
        (("/app/a.py", f"{OURS}/handlers/job/job.py", "<frozen os>"), "/app/a.py:1 in f1"),
        (("/app/a.py", f"{SITE}/tenacity/x.py", "/app/b.py"), "/app/b.py:3 in f3"),
        ((f"{SITE}/lessons/a.py", f"{SITE}/lessons/b.py", f"{SITE}/httpx/c.py"),
         f"{SITE}/lessons/b.py:2 in f2"),
        ((f"{STDLIB}/json/a.py", f"{STDLIB}/json/b.py"), f"{STDLIB}/json/b.py:2 in f2"),
        (("/app/日本 語.py", f"{STDLIB}/json/b.py"), "/app/日本 語.py:1 in f1"),
    ],
)  # fmt: skip
def test_the_applications_innermost_line_is_found(
    files: tuple[str, ...], expected: str | None
) -> None:
    """Behind libraries' lines, between them, in an application that is installed itself."""
    place = application_place_in(stack(*files) if files else None)

    assert (None if place is None else str(place)) == expected


@pytest.mark.parametrize("link", ["The above exception was the direct cause of", "During handling"])
def test_the_exception_that_left_the_handler_goes_before_its_causes(link: str) -> None:
    """A library's own cause is told first, and begins in the library: httpx's of httpcore."""
    cause = stack(f"{SITE}/httpx/_transports/default.py", f"{SITE}/httpcore/_exceptions.py")
    text = f"{cause}\n{link} …:\n\n{stack('/app/a.py', '/app/b.py', f'{SITE}/httpx/_client.py')}"

    assert str(application_place_in(text)) == "/app/b.py:2 in f2"
    assert [whose for whose, _ in sections_of(text)] == [
        "text", "library", "text", "application", "library", "text",
    ]  # fmt: skip


def test_a_cause_of_the_application_is_named_where_the_exception_is_all_a_librarys() -> None:
    text = f"{stack('/app/a.py')}\nDuring handling …:\n\n{stack(f'{STDLIB}/json/a.py')}"

    assert str(application_place_in(text)) == "/app/a.py:1 in f1"


def test_of_a_group_the_first_exceptions_line_is_named_not_the_line_that_waits() -> None:
    """Of real groups, one within the other, whose text has a margin."""

    async def speak() -> None:
        json.loads("{")

    async def sing() -> None:
        msg = "no voice"
        raise ValueError(msg)

    async def perform() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(speak())
            group.create_task(sing())

    async def handler() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(perform())

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(handler())
    text = "".join(traceback.format_exception(raised.value))

    assert str(application_place_in(text)).endswith("in speak")
    sections = sections_of(text)
    assert "\n".join(part for _, part in sections) == text.removesuffix("\n")
    library = [part for whose, part in sections if whose == "library"]
    assert all("taskgroups" in part or STDLIB in part for part in library)
    assert any("json.loads" in part for whose, part in sections if whose == "application")


def test_a_stack_is_told_apart_by_whose_its_frames_are() -> None:
    """Lines of code go with their frame; other lines are text; JavaScript's are known too."""
    python = """\
Traceback (most recent call last):
  File "/srv/app/speech.py", line 7, in speak
    await voice()
          ^^^^^^^
  File "/srv/.venv/lib/python3.12/site-packages/httpx/_client.py", line 1, in get
    raise it
ValueError: no voice"""
    node = "Error: no voice\n    at speak (/srv/app/speech.js:3:9)\n    at node:internal/x:1:2"

    assert [whose for whose, _ in sections_of(python)] == ["text", "application", "library", "text"]
    assert "\n".join(text for _, text in sections_of(python)) == python
    assert [whose for whose, _ in sections_of(node)] == ["text", "application", "library"]
