"""Which line of a stack is the application's."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

import convolab_worker
from convolab_worker.telemetry.frames import application_place, places_in, sections_of

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
        (("/app/a.py", f"{OURS}/handlers/job.py", "<frozen os>"), "/app/a.py:1 in f1"),
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
    place = application_place(places_in(stack(*files) if files else None))

    assert (None if place is None else str(place)) == expected


def test_a_stack_is_told_apart_by_whose_its_frames_are() -> None:
    """Lines of code go with their frame; what is no frame is text; JavaScript's are known too."""
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
