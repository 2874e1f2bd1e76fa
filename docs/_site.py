"""What the site needs beside docs/: README as its first page, and links that leave docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parents[1]
_LINK = re.compile(
    r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>(?!https?:|#)[^)#\s]+)(?P<rest>[^)]*)\)"
)
_IMAGE = re.compile(r"(?<=\]\()docs/(?=images/)")
_GENERATED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add README and CHANGELOG as pages."""
    for source, page in _GENERATED.items():
        text = (_ROOT / source).read_text(encoding="utf-8")
        content = _IMAGE.sub("", _links(text, _ROOT))
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links that leave docs/ to where the site has them, or name the file."""
    return markdown if page.file.generated_by else _links(markdown, _ROOT / "docs")


def _links(markdown: str, folder: Path) -> str:
    return _LINK.sub(lambda match: _link(match, folder), markdown)


def _link(match: re.Match[str], folder: Path) -> str:
    there = (folder / match["target"]).resolve()
    path = there.relative_to(_ROOT).as_posix()
    if path in _GENERATED:
        return f"[{match['text']}]({_GENERATED[path]}{match['rest']})"
    if there.suffix == ".md" and path.startswith("docs/"):
        # In a checkout a page is called by its file, here by its title.
        text = _title(there) if match["text"].endswith(".md") else match["text"]
        return f"[{text}]({path.removeprefix('docs/')}{match['rest']})"
    # The site has pages, not sources: the path says where to look in a checkout.
    text = match["text"].strip("`")
    return f"`{path}`" if path.endswith(text) else f"{match['text']} (`{path}`)"


def _title(page: Path) -> str:
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
