"""Scripts that complete the command line in bash, zsh and fish, made of the parsers. Pure.

A script has every name in it. So a press of Tab needs no package and starts no Python, which would
take too long. It knows this version's names: a shell that sources the command's output at its start
always has those of the installed version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convolab_worker.cli.arguments.flags import PROGRAM
from convolab_worker.client.operating.jobs import STATES
from convolab_worker.client.operating.queues import CLEANED
from convolab_worker.settings import OPTIONS
from convolab_worker.settings.kinds import Choice

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from convolab_worker.cli.arguments.flags import Parser

_STATES = {"states": STATES, "state": tuple(CLEANED)}
_FUNCTION = "_convolab_worker"
BACKSLASH = "\\'"


@dataclass(frozen=True, slots=True)
class Option:
    """An option. Its value, if it takes one, is one of ``words``, a file, or anything."""

    names: Sequence[str]
    text: str
    takes_value: bool
    words: Sequence[str]
    is_file: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A command by the words that lead to it, with the words that may follow, and its options.

    Each word that may follow comes with what it means.
    """

    path: str
    following: Sequence[tuple[str, str]]
    options: Sequence[Option]


def commands_of(parser: Parser, path: str = "") -> Iterator[Command]:
    """Yield the parser's commands, the program itself, whose path is empty, first."""
    following = [(name, each.description or "") for name, each in parser.commands.items()]
    for action in parser.positionals:
        if not parser.commands:
            following += [(str(word), "") for word in action.choices or ()]
    yield Command(path, following, [_option(each) for each in parser.options.values()])
    for name, command in parser.commands.items():
        yield from commands_of(command, f"{path} {name}".strip())


def _option(action: argparse.Action) -> Option:
    setting = OPTIONS.get(action.dest)
    choices = setting.kind.names if setting and isinstance(setting.kind, Choice) else ()
    return Option(
        names=action.option_strings,
        text=(action.help or "").partition(" [")[0].replace("%%", "%"),
        takes_value=action.nargs != 0,
        words=[str(word) for word in action.choices or choices or _STATES.get(action.dest, ())],
        is_file=action.metavar == "FILE",
    )


def bash(commands: Sequence[Command]) -> str:
    """Return the script for bash, from 3.2 on, which macOS has."""
    lines = [
        f'# Completes {PROGRAM}. In ~/.bashrc: eval "$({PROGRAM} completion bash)"',
        f"{_FUNCTION}() {{",
        '    local word="${COMP_WORDS[COMP_CWORD]}" last="${COMP_WORDS[COMP_CWORD-1]}"',
        '    local at="" words="" index',
        '    if [[ $word == "=" ]]; then word=""',
        '    elif [[ $last == "=" ]]; then last="${COMP_WORDS[COMP_CWORD-2]}"; fi',
        "    COMPREPLY=()",
        "    for ((index = 1; index < COMP_CWORD; index++)); do",
        f'        case "$at ${{COMP_WORDS[index]}}" in {_paths(commands)})',
        '            at="$at ${COMP_WORDS[index]}" ;;',
        "        esac",
        "    done",
        '    case "$at $last" in',
    ]
    for place, option in _values(commands):
        if option.is_file:
            lines.append(f'        {place}) COMPREPLY=($(compgen -f -- "$word")); return ;;')
        else:
            lines.append(f'        {place}) words="{" ".join(option.words)}" ;;')
    lines += ["        *)", '            case "$at/${word:0:1}" in']
    for each in commands:
        names = [name for option in each.options for name in option.names]
        following = [name for name, _ in each.following]
        lines.append(f'                "{_at(each)}/-") words="{" ".join(names)}" ;;')
        if following:
            lines.append(f'                "{_at(each)}/"*) words="{" ".join(following)}" ;;')
    lines += [
        "            esac ;;",
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        f"complete -F {_FUNCTION} {PROGRAM}",
    ]
    return "\n".join(lines)


def zsh(commands: Sequence[Command]) -> str:
    """Return the script for zsh, to be sourced, or put into a folder of ``fpath``."""
    lines = [
        f"#compdef {PROGRAM}",
        f"# Completes {PROGRAM}. In ~/.zshrc, behind compinit: source <({PROGRAM} completion zsh)",
        f"{_FUNCTION}() {{",
        "    local at='' last=$words[CURRENT-1] index",
        "    local -a found",
        "    for ((index = 2; index < CURRENT; index++)); do",
        f'        case "$at $words[index]" in ({_paths(commands)})',
        '            at="$at $words[index]" ;;',
        "        esac",
        "    done",
        '    case "$at $last" in',
    ]
    for place, option in _values(commands):
        found = f"compadd -- {' '.join(option.words)}" if option.words else "_message value"
        lines.append(f"        ({place}) {'_files' if option.is_file else found}; return ;;")
    lines += ["    esac", '    case "$at/${words[CURRENT][1]}" in']
    for each in commands:
        options = [_pair(name, option.text) for option in each.options for name in option.names]
        lines.append(f'        ("{_at(each)}/-") found=({" ".join(options)}) ;;')
        if each.following:
            following = " ".join(_pair(*both) for both in each.following)
            lines.append(f'        ("{_at(each)}/"*) found=({following}) ;;')
    lines += [
        "    esac",
        f"    _describe {PROGRAM} found",
        "}",
        f'if [[ $funcstack[1] == {_FUNCTION} ]]; then {_FUNCTION} "$@"',
        f"else compdef {_FUNCTION} {PROGRAM}; fi",
    ]
    return "\n".join(lines)


def fish(commands: Sequence[Command]) -> str:
    """Return the script for fish."""
    lines = [
        f"# Completes {PROGRAM}. In ~/.config/fish/config.fish: {PROGRAM} completion fish | source",
        f"function _{_FUNCTION}",
        "    set -l at",
        "    for word in (commandline -opc)[2..]",
        '        if contains -- "$at $word" ' + _paths(commands, " "),
        '            set at "$at $word"',
        "        end",
        "    end",
        '    test "$at" = "$argv[1]"',
        "end",
        f"complete -c {PROGRAM} -f",
    ]
    for each in commands:
        start = f"complete -c {PROGRAM} -n '_{_FUNCTION} \"{_at(each)}\"'"
        lines += [
            f"{start} -a {name}" + (f" -d {_quoted(text, BACKSLASH)}" if text else "")
            for name, text in each.following
        ]
        for option in each.options:
            names = [
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                for name in option.names
            ]
            value = "" if not option.takes_value else " -rF" if option.is_file else " -x"
            words = f" -a '{' '.join(option.words)}'" if option.words else ""
            text = _quoted(option.text, BACKSLASH)
            lines.append(f"{start} {' '.join(names)}{value}{words} -d {text}")
    return "\n".join(lines)


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def _at(command: Command) -> str:
    return f" {command.path}" if command.path else ""


def _paths(commands: Sequence[Command], between: str = "|") -> str:
    return between.join(f'"{_at(each)}"' for each in commands if each.path)


def _values(commands: Sequence[Command]) -> Iterator[tuple[str, Option]]:
    """Yield each option that takes a value, with a shell's pattern of the place for it."""
    for each in commands:
        for option in each.options:
            if option.takes_value:
                yield "|".join(f'"{_at(each)} {name}"' for name in option.names), option


def _pair(name: str, text: str) -> str:
    return _quoted(f"{name}:{text}" if text else name, "'\\''")


def _quoted(text: str, quote: str) -> str:
    """Return a text in single quotes; ``quote`` is how the shell writes a quote inside."""
    inner = text.replace("\\", "\\\\") if quote == BACKSLASH else text
    return "'" + inner.replace("'", quote) + "'"
