"""Print the low end of every range that users install, as constraints for pip.

Reads the dependencies and all extras from pyproject.toml. No user installs the dependency groups:
they are tested with their newest versions.
"""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

LOW_END = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,-]+\])?\s*>=\s*(?P<version>[\w.]+)")


def main() -> None:
    """Write one `name==version` a line."""
    root = Path(__file__).resolve().parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in chain(project["dependencies"], *extras.values()):
        if found := LOW_END.match(requirement):
            print(f"{found['name']}=={found['version']}")


if __name__ == "__main__":
    main()
