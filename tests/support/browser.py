"""A real browser, where there is one."""

from __future__ import annotations

import shutil

import pytest

from tests.support.node import HOW_TO_RUN, INTEROP

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def chromium(*packages: str) -> str:
    """Where the browser is; skips without it, playwright or the npm ``packages``."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no Chromium: install the package chromium, one of {', '.join(PROGRAMS)}")
    for package in ("playwright-core", *packages):
        if not (INTEROP / "node_modules" / package).is_dir():
            pytest.skip(f"npm package {package} is not installed: {HOW_TO_RUN}")
    return program
