"""What the flags of all commands share: the parser, settings as flags, and checked values."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from convolab_worker.settings import OPTIONS, Settings
from convolab_worker.settings.kinds import (
    Choice,
    Duration,
    KeptJobs,
    Kind,
    Names,
    Url,
    Whole,
    suggestion,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Subcommands = argparse._SubParsersAction["Parser"]  # noqa: SLF001 - it has no public name

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

PROGRAM = "convolab-worker"
QUEUES_LOOKED_IN = "only these queues; if none is named, all that are found"
QUEUES_ACTED_ON = "the queues to act on; may be left out where there is only one"
CONNECTION = ("redis_url", "prefix", "log_level", "log_format")
"""The settings that are flags of every command that connects to Redis, as well as --queue."""
_ANY_WIDTH = 80
_LONGEST_CHOICE = 16  # characters of a flag's metavar; longer ones go into its help

_NAMES = {"queues": ("--queue",), "concurrency": ("-c", "--concurrency")}


class Parser(argparse.ArgumentParser):
    """An argument parser whose help leads with the command's own options, and ends with an example.

    It reports an error in one line, with the nearest existing name for a misspelt one.
    """

    def __init__(self, **options: Any) -> None:
        # With a given width, or argparse would import what measures terminals for each flag.
        options["formatter_class"] = functools.partial(argparse.HelpFormatter, width=_ANY_WIDTH)
        super().__init__(**options, allow_abbrev=False, add_help=False)
        self.example = ""
        self.commands: Mapping[str, Parser] = {}
        self.common = self.add_argument_group("common options")
        self.common.add_argument("-h", "--help", action="help", help="show this and exit")

    @property
    def options(self) -> dict[str, argparse.Action]:
        """Every option by its longest name."""
        actions = [each for each in self._actions if each.option_strings]
        return {each.option_strings[-1]: each for each in actions}

    @property
    def positionals(self) -> list[argparse.Action]:
        return [each for each in self._actions if not each.option_strings]

    def error(self, message: str) -> NoReturn:
        """End the process with the exit code for wrong usage."""
        if self.commands and message.startswith("the following arguments are required"):
            message = f"expected one of {', '.join(self.commands)}"
        self.exit(MISUSED, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """End the process for arguments that the command does not have."""
        option = next((text for text in unknown if text.startswith("-")), None)
        if option is None:
            self.error(f"unexpected argument {unknown[0]!r}")
        name = option.partition("=")[0]
        self.error(f"unknown option {name}{suggestion(name, [*self.options])}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            near = suggestion(str(value), names) or f"; expected one of {', '.join(names)}"
            what = "/".join(action.option_strings) or action.dest
            self.error(f"no {what} {value!r}{near}")

    def format_help(self) -> str:
        """Return the help: usage, own options, common ones, and an example."""
        self.usage = self._usage()  # only now: argparse makes the names of subcommands from it
        self._action_groups.sort(key=lambda group: group is self.common)
        example = f"\nexample:\n  {self.example}\n" if self.example else ""
        self.formatter_class = argparse.HelpFormatter
        return super().format_help() + example

    def _usage(self) -> str:
        """Return in one line what must be given; the help lists below what may be given."""
        parts = [self.prog]
        for action in self._actions:
            name = str(action.metavar or action.dest)
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - it has no public name
                parts.append(f"{name} ...")
            elif action.option_strings:
                parts += [f"{action.option_strings[0]} {name}"] if action.required else []
            else:
                parts.append({"?": f"[{name}]", "*": f"[{name} ...]"}.get(str(action.nargs), name))
        return " ".join([*parts, "[OPTION ...]"])


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
    commands = parser.add_subparsers(
        title=f"{dest}s", dest=dest, metavar=dest.upper(), required=True, parser_class=Parser
    )
    parser.commands = commands.choices
    return commands


def add_command(commands: Subcommands, name: str, summary: str, example: str = "") -> Parser:
    """Add a command; ``example`` follows the program's name, and docs/commands.md runs it."""
    command = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    command.example = f"{PROGRAM} {example}" if example else ""
    command.set_defaults(parser=command)
    return command


def add_settings(command: Parser, *names: str) -> None:
    for name in names:
        add_setting(command, name, *_NAMES.get(name, (f"--{name.replace('_', '-')}",)))


def add_setting(command: Parser, name: str, *flags: str, text: str | None = None) -> None:
    """Add a setting under these flags; the table of settings has its help, unless ``text`` does."""
    option = OPTIONS[name]
    repeatable: dict[str, Any] = {"action": "append"} if isinstance(option.kind, Names) else {}
    default = "" if text else f", default: {option.default_text}"
    group = command.common if name in CONNECTION else command
    help_text = f"{text or option.help} [{option.variable}{default}]"
    if isinstance(option.kind, Choice) and _metavar(name, option.kind).isupper():
        help_text = f"{', '.join(option.kind.names)}: {help_text}"
    group.add_argument(
        *flags,
        dest=name,
        metavar=_metavar(name, option.kind),
        type=reader(option.read, option.show),
        help=help_text,
        **repeatable,
    )


def add_connection(command: Parser, queue: str | None = None) -> None:
    """Add what every command that connects to Redis has; ``queue`` says what --queue is for."""
    add_setting(command, "queues", "--queue", text=queue)
    add_settings(command, *CONNECTION)


def add_json(command: Parser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_list(command: Parser, flag: str, text: str) -> None:
    """Add a flag that may be given again; ``--name`` is read as ``names``."""
    name = flag.removeprefix("--")
    command.add_argument(
        flag, dest=f"{name}s", metavar=name.upper(), action="append", default=[], help=text
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


def reader(
    read: Callable[[str], Any], show: Callable[[str], str] = repr, *, expected: str = ""
) -> Callable[[str], Any]:
    """Return ``read`` as argparse calls it: a ValueError becomes a message that names the text.

    ``show`` writes the text for the message, with secrets masked. The message says what was
    ``expected`` or, without that, what the ValueError says.
    """

    def value_of(text: str) -> Any:
        try:
            return read(text.strip())
        except ValueError as error:
            msg = f"{show(text)}: expected {expected or error}"
            raise argparse.ArgumentTypeError(msg) from None

    return value_of


def settings_of(given: argparse.Namespace) -> Settings:
    """Return the settings of flags and environment; a flag overrides its variable."""
    flags = {name: getattr(given, name, None) for name in OPTIONS}
    if flags["queues"] is not None:
        flags["queues"] = tuple(name for names in flags["queues"] for name in names)
    return Settings.from_env(**{name: value for name, value in flags.items() if value is not None})


def names_queues(given: argparse.Namespace) -> bool:
    """Whether a flag or a variable says which queues are meant."""
    return given.queues is not None or bool(os.environ.get(OPTIONS["queues"].variable))


def _metavar(name: str, kind: Kind) -> str:
    if isinstance(kind, Choice):
        choices = "|".join(kind.names)
        return choices if len(choices) <= _LONGEST_CHOICE else name.rpartition("_")[2].upper()
    kinds = {Duration: "DURATION", Whole: "N", Url: "URL", Names: "NAME", KeptJobs: "KEEP"}
    return "MODULE:REGISTRY" if name == "app" else kinds.get(type(kind), "TEXT")
