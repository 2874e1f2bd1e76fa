"""Environments that hold only what a user would have, made once and kept in .venvs."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

from examples.benchmarks.benchkit.child import ROOT
from examples.benchmarks.benchkit.report import progress

PLAIN = "plain"
UVLOOP = "uvloop"
NEWER = "newer"
TASKIQ = "taskiq"
# What is installed beside what it needs itself; ours is built from this repository.
_HERE = "convolab_worker"
_PACKAGES = {
    PLAIN: (_HERE,),
    UVLOOP: (f"{_HERE}[uvloop]",),
    NEWER: (_HERE,),
    TASKIQ: ("taskiq-redis>=1.1",),
    "saq": ("saq[redis]>=0.24", "typing-extensions"),  # it imports what it does not ask for
    "streaq": ("streaq>=6",),
    "arq": ("arq>=0.25",),
    "celery": ("celery[redis]>=5.5",),
    "docket": ("pydocket",),
    "dramatiq": ("dramatiq[redis]",),
}
_FOLDER = ROOT / ".venvs"


@functools.cache
def python_of(environment: str) -> str:
    """The interpreter of an environment; ours is installed anew by each benchmark."""
    home = _FOLDER / f"bench-{environment}"
    python = home / "bin" / "python"
    packages = _PACKAGES[environment]
    is_ours = packages[0].startswith(_HERE)
    if not python.exists():
        progress(f"making the environment {home.name}")
        base = str(newer_python()) if environment == NEWER else sys.executable
        subprocess.run([base, "-m", "venv", "--without-pip", str(home)], check=True)
        _pip(python, *(_from_here(each) for each in packages))
    elif is_ours:
        _pip(python, "--force-reinstall", "--no-deps", str(_wheel()))
        _pip(python, *(_from_here(each) for each in packages))  # what it needs now, too
    return str(python)


@functools.cache
def newer_python() -> str | None:
    """The newest Python of this machine, if it is newer than the one that runs this."""
    for minor in range(20, sys.version_info.minor, -1):
        found = shutil.which(f"python3.{minor}")
        if (
            found
            and subprocess.run([found, "-V"], capture_output=True, check=False).returncode == 0
        ):
            return found
    return None


def installed(environment: str) -> list[str]:
    """What an environment holds: names with versions."""
    listed = subprocess.run(
        [*_pip_of(Path(python_of(environment))), "list", "--format", "freeze"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [line.replace("==", " ") for line in listed.stdout.split()]


def versions_of(environment: str) -> list[str]:
    """The releases of what an environment is for, and of its redis-py."""
    asked = {re.split(r"[\[<>= ]", package)[0] for package in _PACKAGES[environment]}
    return [each for each in installed(environment) if each.split()[0] in asked | {"redis"}]


def _from_here(package: str) -> str:
    return f"{package} @ {_wheel().as_uri()}" if package.startswith(_HERE) else package


@functools.cache
def _wheel() -> Path:
    folder = _FOLDER / "wheel"
    for old in folder.glob("*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, stderr=subprocess.DEVNULL)
    return next(folder.glob("*.whl"))


def _pip(python: Path, *arguments: str) -> None:
    command = [*_pip_of(python), "install", "--quiet"]
    subprocess.run([*command, *arguments], check=True, stderr=subprocess.DEVNULL)


def _pip_of(python: Path) -> list[str]:
    """This program's own pip for another environment: a system's Python often has none."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    return [*pip, "--python", str(python)]
