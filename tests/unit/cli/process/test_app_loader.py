"""The application's registry: found, or refused with what was meant."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convolab_worker.cli.process.app_loader import load_app
from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.registration.registry import HandlerRegistry

REGISTRY = """
from convolab_worker.handlers.registration.registry import HandlerRegistry

handlers = HandlerRegistry()

@handlers.audio("generate-audio")
async def generate_audio(job):
    return {}
"""

WriteModule = Callable[[str, str], Path]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Write Python modules into a current directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "modules", sys.modules.copy())

    def write(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return write


def refused(where: str) -> str:
    """Return the message with which load_app refuses a place."""
    with pytest.raises(ConfigurationError) as caught:
        load_app(where)
    return str(caught.value)


def test_a_registry_is_loaded_from_the_current_directory(write_module: WriteModule) -> None:
    """MODULE:NAME finds a registry in a file of the current directory."""
    write_module("plain_jobs.py", REGISTRY)

    assert isinstance(load_app("plain_jobs:handlers"), HandlerRegistry)


def test_modules_and_attributes_may_have_dots(write_module: WriteModule) -> None:
    """A package's module and an attribute of an attribute are found."""
    write_module("dotted_app/__init__.py", "")
    write_module("dotted_app/jobs.py", f"{REGISTRY}\nclass Box:\n    inner = handlers\n")

    assert isinstance(load_app("dotted_app.jobs:Box.inner"), HandlerRegistry)


def test_a_function_may_make_the_registry(write_module: WriteModule) -> None:
    """A callable without arguments is called, and what it returns is the registry."""
    write_module("factory_jobs.py", f"{REGISTRY}\ndef make():\n    return handlers\n")

    assert isinstance(load_app("factory_jobs:make"), HandlerRegistry)


def test_a_missing_module_is_named_with_where_it_was_looked_for(
    write_module: WriteModule, tmp_path: Path
) -> None:
    """The error has the module and the current directory, and no traceback."""
    write_module("partial/__init__.py", "")

    assert refused("nowhere_jobs:handlers") == (
        f"module nowhere_jobs not found in {tmp_path} or in what is installed"
    )
    assert "module partial.jobs not found" in refused("partial.jobs:handlers")


@pytest.mark.parametrize("written", ["app.py", "./app.py", "app"])
def test_a_file_name_in_place_of_a_module_is_recognised(
    written: str, write_module: WriteModule
) -> None:
    """A path is a common mistake, and the error says which module was meant."""
    write_module("other.py", "")

    message = refused(f"{written}:handlers")

    assert ("did you mean app?" in message) == (written != "app")


def test_a_missing_attribute_lists_the_registries_of_the_module(write_module: WriteModule) -> None:
    """The error says what could have been meant."""
    write_module("two_registries.py", f"{REGISTRY}\nmore = HandlerRegistry()\n")
    write_module("no_registries.py", "handler = 1\n")

    assert refused("two_registries:handler") == (
        "two_registries has no handler; its registries: two_registries:handlers, "
        "two_registries:more"
    )
    assert refused("no_registries:handlers") == (
        "no_registries has no handlers; did you mean handler?"
    )


def test_something_else_in_place_of_a_registry_is_refused(write_module: WriteModule) -> None:
    """The error names the type that was found and what was expected."""
    write_module("wrong_type.py", f"{REGISTRY}\nnumber = 5\nasync def coming():\n    return 1\n")

    message = refused("wrong_type:number")

    assert message.startswith("wrong_type:number is an int: expected a HandlerRegistry or a ")
    assert message.endswith("; its registries: wrong_type:handlers")
    assert "is a coroutine: expected" in refused("wrong_type:coming")


def test_a_registry_without_handlers_is_refused(write_module: WriteModule) -> None:
    """A worker that handles nothing would only fail jobs."""
    write_module("empty_jobs.py", REGISTRY.partition("@")[0])

    assert refused("empty_jobs:handlers") == (
        "empty_jobs:handlers has no handlers: expected at least one"
    )


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("import missing_dependency", "ModuleNotFoundError: No module named 'missing_dependency'"),
        ("def f():\n    return 1 / 0\nf()", "ZeroDivisionError: division by zero"),
        ("def (:", "SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
    ],
)
def test_an_error_inside_the_module_is_shown_with_its_own_traceback(
    text: str, last: str, write_module: WriteModule
) -> None:
    """The traceback starts in the user's code, without the import machinery or ours."""
    file = write_module("broken_jobs.py", text)

    message = refused("broken_jobs:handlers")

    assert message.startswith("importing broken_jobs failed:\n")
    assert str(file) in message
    assert message.endswith(last)
    assert "importlib" not in message
    assert "app_loader.py" not in message


def test_an_error_inside_the_factory_is_shown_with_its_traceback(
    write_module: WriteModule,
) -> None:
    """A factory that raises, or that wants arguments, is told as what it is."""
    write_module(
        "bad_factories.py", "def fail():\n    raise KeyError('x')\ndef want(a):\n    pass\n"
    )

    assert refused("bad_factories:fail").endswith("KeyError: 'x'")
    assert "missing 1 required positional argument: 'a'" in refused("bad_factories:want")
