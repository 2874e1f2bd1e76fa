"""The flags of a job's data, queue and options, for every command that adds jobs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from convolab_worker.cli.arguments import flags
from convolab_worker.errors import ConfigurationError
from convolab_worker.settings.kinds import KeptJobs, Whole
from convolab_worker.settings.units import parse_duration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from convolab_worker.bullmq.protocol.keyword_types import Backoff
    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.settings import Settings

_PRIORITY = Whole(low=0, high=2_097_151)
_ATTEMPTS = Whole(low=1, high=10_000)
_NAMES = ("priority", "attempts", "backoff", "lifo", "keep_completed", "keep_failed")
_BACKOFF_EXPECTED = "5s, fixed:5s, exponential:2s, exponential:2s:1m, or a strategy's name"


def add_flags(command: Parser) -> None:
    flags.add_flag(command, "--priority", _PRIORITY, "1 goes before 2; 0, the default, before both")
    flags.add_flag(command, "--attempts", _ATTEMPTS, "how often the job may run (default: 1)")
    command.add_argument(
        "--backoff",
        metavar="BACKOFF",
        type=flags.reader(read_backoff),
        help="how long a failed attempt waits for the next: 5s is exactly that; fixed:5s, and "
        "exponential:2s[:LONGEST] which doubles, have jitter; other text names a strategy",
    )
    kept = "how many {} jobs stay, this one included: 1000, 1h, 1000/1d, none or all"
    for state in ("completed", "failed"):
        flags.add_flag(command, f"--keep-{state}", KeptJobs(), kept.format(state))
    command.add_argument(
        "--lifo", action="store_true", default=None, help="put the job at the head of its queue"
    )


def add_data(command: Parser, whose: str) -> None:
    """Add the argument that ``read_data`` reads; ``whose`` begins its help."""
    command.add_argument(
        "data",
        metavar="JSON",
        nargs="?",
        default="{}",
        help=f"{whose}; @FILE reads a file, - reads standard input (default: {{}})",
    )


def expect_one_queue(given: argparse.Namespace, settings: Settings, what: str) -> None:
    """Refuse several queues; ``what`` says what the one is for. Raises ConfigurationError."""
    if given.queues is not None and len(settings.queues) > 1:
        msg = f"--queue {','.join(settings.queues)}: expected the one queue that {what}"
        raise ConfigurationError(msg)


def job_options(given: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of JobOptions that the flags gave."""
    return {name: getattr(given, name) for name in _NAMES if getattr(given, name) is not None}


def read_backoff(text: str) -> Backoff:
    """Return the backoff that a flag's text means; raises ValueError, which says what it may be."""
    from convolab_worker.bullmq.protocol.keyword_types import Exponential, Fixed

    kind, *parts = text.split(":")
    makers: dict[str, tuple[Callable[..., Backoff], int]] = {
        "fixed": (Fixed, 1),
        "exponential": (Exponential, 2),
    }
    make, most = makers.get(kind, (None, 0))
    if len(parts) > most or (make is not None and not parts) or not text:
        raise ValueError(_BACKOFF_EXPECTED)
    try:
        if make is not None:
            return make(*[parse_duration(part) for part in parts])
        return parse_duration(text) if text[0].isdecimal() else text
    except (ConfigurationError, ValueError):
        raise ValueError(_BACKOFF_EXPECTED) from None


def read_data(text: str) -> Any:
    """Return the JSON value that an argument means: itself, ``@FILE`` or ``-`` for standard input.

    Raises ConfigurationError that names where the text came from and what is wrong with it.
    """
    source = "standard input" if text == "-" else text[1:] if text.startswith("@") else "JSON"
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_refuse_constant)
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{source} can't be read: {getattr(error, 'strerror', None) or error}"
    except RecursionError:
        msg = f"{source}: expected a JSON value, and it is nested too deeply"
    except ValueError as error:
        msg = f"{source}: expected a JSON value: {error}"
        if source == "JSON":
            msg += """; in a shell, put JSON into single quotes: '{"item": "tea"}'"""
    raise ConfigurationError(msg)


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)
