"""README and docs, without running them: what they name is there.

``tests/integration/test_docs.py`` runs their blocks.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import convolab_worker
from convolab_worker.cli.arguments.flags import Parser
from convolab_worker.cli.main import COMMANDS as OURS, main, top_parser
from tests.support.markdown import PAGES, ROOT, blocks, shown

_LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?!https?:)(?P<target>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_NAMED_PATH = re.compile(r"(?<!\[)`(?:docs|deploy|examples)/[^`\s]*`")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
# Programs that pages show and that are not ours.
_FOREIGN = {
    ".", "curl", "datamodel-codegen", "node", "npm", "npx", "pip", "printf", "python3", "uv"
}  # fmt: skip

COMMANDS = [
    pytest.param(command, id=f"{shown(page)}: {command[:60]}")
    for page in PAGES
    for block in blocks(page)
    if block.kind == "console"
    for command, _ in block.commands
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_a_page_shows_exists(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Our commands have the flags shown, make has the target, a program is a file of ours."""
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    program = words[0]

    if program == "convolab-worker":
        assert _unknown_flags(words[1:], capsys) == []
    elif program == "make":
        assert set(words[1:]) <= _make_targets()
    elif program == "python":
        assert _is_ours(words[1:]), f"no such program: {command}"
    else:
        assert program in _FOREIGN, f"unknown program: {program}"


def _unknown_flags(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    has_actions = words[:1] in (["failed"], ["jobs"], ["queue"], ["schedule"])
    named = words[: 1 + has_actions] if words and not words[0].startswith("-") else []
    assert main([*named, "--help"]) == 0, f"no such command: {words}"
    known = re.findall(r"(?<![\w-])--?[a-z][\w-]*", capsys.readouterr().out)
    flags = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    return [flag for flag in flags if flag not in known]


def _make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))


def _is_ours(words: list[str]) -> bool:
    if words[:2] == ["manage.py", "convolab_worker"]:  # a Django project's
        return True
    if words[:2] == ["-m", "pytest"]:
        return _is_ours(words[2:])
    if words[0] == "-c":
        return True
    if words[0] == "-m":
        if words[1] == "convolab_worker":
            return True
        module = ROOT / words[1].replace(".", "/")
        return module.with_suffix(".py").is_file() or module.is_dir()
    files = {block.file for page in PAGES for block in blocks(page)}
    return words[0] in files or (ROOT / words[0]).is_file()


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file, and its anchor to a heading there."""
    broken = [
        match[0]
        for match in _LINK.finditer(page.read_text(encoding="utf-8"))
        if not _leads_somewhere(page, match["target"], match["anchor"])
    ]

    assert broken == []


def _leads_somewhere(page: Path, target: str, anchor: str | None) -> bool:
    there = page.parent / target if target else page
    if not there.exists():
        return False
    return anchor is None or anchor in _anchors(there)


def _anchors(page: Path) -> set[str]:
    headings = [match["text"] for match in _HEADING.finditer(page.read_text(encoding="utf-8"))]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_a_path_that_a_page_names_is_a_link(page: Path) -> None:
    """Whoever reads of a page, an example or a file to deploy gets there by a click."""
    prose = _FENCED.sub("", page.read_text(encoding="utf-8"))

    assert _NAMED_PATH.findall(prose) == []


def test_the_page_of_commands_runs_every_example_of_the_help() -> None:
    """tests/integration/test_docs.py runs the page: each command's example is one that works."""
    page = ROOT / "docs" / "commands.md"
    run = [command for block in blocks(page) for command, _ in block.commands]
    examples = [each.example for each in _commands(top_parser([*OURS])) if not each.commands]

    assert len(examples) > len(OURS)
    assert [each for each in examples if not any(it.startswith(each) for it in run)] == []


def _commands(parser: Parser) -> Iterator[Parser]:
    for command in parser.commands.values():
        yield command
        yield from _commands(command)


def test_every_page_is_listed_in_the_readme() -> None:
    """README leads to every page of docs."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [shown(page) for page in PAGES if f"({shown(page)})" not in readme] == ["README.md"]


def test_the_architecture_page_names_every_module() -> None:
    """The house that docs/architecture.md draws has every module of the package, and no other."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("## The house")[2].partition("\n## ")[0]
    package = Path(next(iter(convolab_worker.__path__)))
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in package.glob("*/__init__.py")}

    drawn = [
        name
        for row in table.splitlines()
        if row.startswith("| ")
        for name in re.findall(r"`(\w+)`", row.split("|")[2])
    ]

    assert sorted(drawn) == sorted(modules | packages)


def test_tests_stand_in_the_folder_of_what_they_test() -> None:
    """Unit tests are found by the path of what they test: their folders are the package's."""
    package = Path(next(iter(convolab_worker.__path__)))
    here = Path(__file__).parent
    folders = {str(path.parent.relative_to(here)) for path in here.rglob("test_*.py")}

    # These test what is not of the package: programs beside it.
    folders -= {".", "benchmarks", "examples"}

    assert [folder for folder in folders if not (package / folder / "__init__.py").is_file()] == []


def test_the_package_has_few_folders_and_modules_at_its_top() -> None:
    """What a newcomer sees first can be taken in at once: what each folder owns, and never does."""
    package = Path(next(iter(convolab_worker.__path__)))
    folders = [*package.glob("*/__init__.py")]

    assert len(folders) <= 12
    assert len([*package.glob("*.py")]) <= 8
    for folder in folders:
        role = ast.get_docstring(ast.parse(folder.read_text(encoding="utf-8"))) or ""
        assert len(re.findall(r"\.(?:\s|$)", role)) >= 2, folder


def test_the_architecture_page_lists_the_modules_of_the_folders_that_a_job_passes_through() -> None:
    """Each module has its line in the trees below the table, and no line is of one that is gone."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page.partition("## The house")[2].partition("```\n")[2].partition("```")[0]
    package = Path(next(iter(convolab_worker.__path__)))

    listed = _modules_of_tree(tree)

    there = {
        path.relative_to(package).with_suffix("").as_posix()
        for path in package.rglob("*.py")
        if path.stem != "__init__"
    }
    whole = {module for module in there if module.partition("/")[0] in _FOLDERS_OF_JOBS}
    missing, gone = sorted(whole - {*listed}), sorted({*listed} - there)
    assert (missing, gone) == ([], []), "the tree in docs/architecture.md"


_FOLDERS_OF_JOBS = {"bullmq", "client", "connection", "handlers", "server", "worker"}


def _modules_of_tree(tree: str) -> list[str]:
    """``folder/module`` of each name in the tree, in which four levels of indentation nest."""
    found: list[str] = []
    above: list[str] = []
    for line in tree.splitlines():
        names = re.match(r"( {0,6})(\w[\w., ]*?/?)(?:$|  )", line)
        if names is None:
            continue  # it goes on with the line above
        depth = len(names[1]) // 2
        if names[2].endswith("/"):
            above[depth:] = [names[2].rstrip("/")]
            continue
        modules = [name for name in re.findall(r"[\w.]+", names[2]) if "." not in name]
        found += ["/".join([*above[:depth], name]) for name in modules]
    return found


def test_the_api_page_has_every_public_name() -> None:
    """docs/api.md asks for the docstrings of all that the package exports."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: convolab_worker\.(\w+)$", page, re.MULTILINE)

    assert set(convolab_worker.__all__) <= set(listed)


def test_the_api_page_has_what_the_pages_import() -> None:
    """A name that a program on a page imports is looked up there, or its whole module is."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE))
    imported = {
        (node.module or "", alias.name)
        for shown_page in PAGES
        for block in blocks(shown_page)
        if block.kind == "python"
        for node in ast.walk(ast.parse(block.text))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("convolab_worker")
        for alias in node.names
    }

    assert len(imported) > 30
    missing = [
        (module, name)
        for module, name in sorted(imported)
        if module not in listed and f"{module}.{name}" not in listed
    ]
    assert missing == []


def test_the_page_on_installing_lists_every_extra_and_no_other() -> None:
    """Dependency groups, which users can't install, stand in no table of extras."""
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    listed = re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)

    assert sorted(listed) == sorted(project["optional-dependencies"])


_EVENT = re.compile(r"[a-z_]+\.[a-z_]+")
_LEVELS = {"info", "warning", "error", "critical", "exception"}


def test_the_page_for_operators_lists_every_event_that_is_logged() -> None:
    """Who is woken by a line finds it there; what is at debug is for those who read the code."""
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    package = Path(next(iter(convolab_worker.__path__)))
    logged = {
        str(node.args[0].value)
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _LEVELS
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and _EVENT.fullmatch(str(node.args[0].value))
    }

    assert len(logged) > 50
    assert sorted(event for event in logged if f"`{event}`" not in page) == []


def test_the_page_for_operators_says_where_to_look_first_for_each_alert() -> None:
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    rules = (ROOT / "deploy" / "alerts.yaml").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", rules)

    assert len(alerts) > 10
    assert [alert for alert in alerts if f"`{alert}`" not in page] == []


# "it is no longer", "there is no job" and "that is no way to" are English; "5 is no text" is not.
_IS_NO = re.compile(r"(?<![Tt]here )\b(?:is|are|was|were) no (?!longer|more|way)(?=[a-z]|$)")


def test_what_users_read_says_that_something_is_not_a_number_and_not_that_it_is_no_number() -> None:
    package = Path(next(iter(convolab_worker.__path__)))
    pages = [(page.name, line) for page in PAGES for line in page.read_text("utf-8").splitlines()]
    texts = [
        (file.name, node.value)
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]

    in_one_line = [(name, " ".join(text.split())) for name, text in pages + texts]
    assert [(name, text) for name, text in in_one_line if _IS_NO.search(text)] == []
