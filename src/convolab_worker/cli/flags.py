"""What the flags of all commands share: the parser, settings as flags, and checked values."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from convolab_worker.settings import OPTIONS, Settings
from convolab_worker.settings.kinds import Choice, Duration, KeptJobs, Kind, Names, Url, Whole

if TYPE_CHECKING:
    from collections.abc import Callable

    Subcommands = argparse._SubParsersAction["Parser"]  # noqa: SLF001 - it has no public name

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

PROGRAM = "convolab-worker"
CONNECTING = ("redis_url", "queues", "prefix", "log_level", "log_format")
"""The settings that every command that connects to Redis has as flags."""

_NAMES = {"queues": ("--queue",), "concurrency": ("-c", "--concurrency")}


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """End the process with the exit code for wrong usage."""
        self.exit(MISUSED, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class VersionAction(argparse.Action):
    """Prints the version; only this flag reads the installed metadata, which takes time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            installed = version("convolab_worker")
        except PackageNotFoundError:
            installed = "(from sources, not installed)"
        sys.stdout.write(f"{PROGRAM} {installed}\n")
        parser.exit()


def add_subcommands(parser: Parser, dest: str) -> Subcommands:
    """Make the parser expect one of the commands that are added to the returned object."""
    return parser.add_subparsers(
        dest=dest, metavar=dest.upper(), required=True, parser_class=Parser
    )


def add_command(commands: Subcommands, name: str, summary: str) -> Parser:
    return commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
    )


def add_settings(command: Parser, *names: str) -> None:
    for name in names:
        add_setting(command, name, *_NAMES.get(name, (f"--{name.replace('_', '-')}",)))


def add_setting(command: Parser, name: str, *flags: str) -> None:
    """Add a setting under these flags; the rest comes from the table of settings."""
    option = OPTIONS[name]
    repeatable: dict[str, Any] = {"action": "append"} if isinstance(option.kind, Names) else {}
    command.add_argument(
        *flags,
        dest=name,
        metavar=_metavar(name, option.kind),
        type=reader(option.read, option.show),
        help=f"{option.help} [{option.variable}, default: {option.default_text}]",
        **repeatable,
    )


def add_flag(command: Parser, flag: str, kind: Kind, text: str, default: Any = None) -> None:
    """Add a flag that is not a setting; ``kind`` reads and checks its value."""
    command.add_argument(
        flag, default=default, metavar=_metavar(flag, kind), type=reader_of(kind), help=text
    )


def add_duration(command: Parser, flag: str, text: str) -> None:
    """Add a flag that is not a setting and has a duration of up to ten years."""
    add_flag(command, flag, Duration(low=0.0, high=3650 * 24 * 3600.0), text)


def reader_of(kind: Kind) -> Callable[[str], Any]:
    """Return a function that reads text as this kind of value, as argparse calls it."""
    return reader(lambda text: kind.check(kind.parse(text)))


def reader(read: Callable[[str], Any], show: Callable[[str], str] = repr) -> Callable[[str], Any]:
    """Return ``read`` as argparse calls it: a ValueError becomes a message that names the text.

    ``show`` writes the text for the message, with secrets masked.
    """

    def value_of(text: str) -> Any:
        try:
            return read(text.strip())
        except ValueError as error:
            msg = f"{show(text)}: expected {error}"
            raise argparse.ArgumentTypeError(msg) from None

    return value_of


def settings_of(given: argparse.Namespace) -> Settings:
    """Return the settings of flags and environment; a flag overrides its variable."""
    flags = {name: getattr(given, name, None) for name in OPTIONS}
    if flags["queues"] is not None:
        flags["queues"] = tuple(name for names in flags["queues"] for name in names)
    return Settings.from_env(**{name: value for name, value in flags.items() if value is not None})


def names_queues(given: argparse.Namespace) -> bool:
    """Whether somebody has said which queues are meant: by flag or by variable."""
    return given.queues is not None or bool(os.environ.get(OPTIONS["queues"].variable))


def _metavar(name: str, kind: Kind) -> str:
    if isinstance(kind, Choice):
        return "|".join(kind.names)
    kinds = {Duration: "DURATION", Whole: "N", Url: "URL", Names: "NAME", KeptJobs: "KEEP"}
    return "MODULE:REGISTRY" if name == "app" else kinds.get(type(kind), "TEXT")
