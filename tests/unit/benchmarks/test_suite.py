"""The page that the suite writes: its own part of it, and nothing else."""

from __future__ import annotations

import pytest

from examples.benchmarks.benchkit.section import Section
from examples.benchmarks.suite import replaced

MARKS = ("<!-- make bench writes from here -->", "<!-- to here -->")


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    """Other parts of the page are other people's."""
    page = f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n"

    written = replaced(page, "new")

    assert written == f"before\n{MARKS[0]}\n\nnew\n{MARKS[1]}\nafter\n"
    assert replaced(written, "new") == written


def test_a_page_without_marks_is_refused() -> None:
    """Nothing of it is overwritten."""
    with pytest.raises(ValueError, match="has no part between"):
        replaced("before", "new")


def test_a_section_is_a_heading_its_note_and_a_table() -> None:
    """Numbers are shown as in the terminal."""
    section = Section(
        title="Throughput", note="Measured.", headings=("worker", "jobs/s"),
        rows=[("this worker", 12345.6), ("Node", None)], results=[],
    )  # fmt: skip

    assert section.markdown() == (
        "### Throughput\n\nMeasured.\n\n| worker | jobs/s |\n| --- | --- |\n"
        "| this worker | 12,346 |\n| Node | \u2013 |\n"
    )
