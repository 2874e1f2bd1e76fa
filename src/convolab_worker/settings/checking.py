"""Checks the values given to options: each alone, some together, and the options' names.

It names every fault in one ConfigurationError. ``options`` says which options there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.errors import ConfigurationError
from convolab_worker.settings.environment import EVERYBODYS, understood, unknown_variables
from convolab_worker.settings.kinds import suggestion
from convolab_worker.settings.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from convolab_worker.settings.option import Option

    Options = Mapping[str, Option]
    """Options by name: all that there are."""


def check_values(options: Options, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values in their own types. Raises ConfigurationError for what is wrong."""
    problems: list[str] = []
    right = _checked(options, values, problems)
    problems += _across(options, right, {})
    _raise_all(problems)
    return right


def read_values(
    options: Options,
    used: Iterable[str],
    environ: Mapping[str, str],
    overrides: Mapping[str, Any],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the values of the variables that are ``used``, or ``overrides``, and remarks.

    The remarks are of what other software may have written. Raises ConfigurationError.
    """
    remarks = unknown_variables(environ, [option.variable for option in options.values()])
    problems = _unknown_names(options, overrides)
    texts = {
        name: text
        for name in used
        if name not in overrides and (text := environ.get(options[name].variable, "").strip())
    }
    if environ.get(options["strict_variables"].variable, "").strip().lower() == "on":
        problems, remarks = remarks + problems, []
    remarks += _understand(options, texts)
    given = {name: value for name, value in overrides.items() if name in options}
    values = _checked(options, texts, problems, are_texts=True)
    values |= _checked(options, given, problems)
    problems += _across(options, values, {name: options[name].variable for name in texts})
    _raise_all(problems)
    return values, tuple(remarks)


def refuse_unknown(options: Options, names: Iterable[str]) -> None:
    """Raise ConfigurationError for names that no option has."""
    _raise_all(_unknown_names(options, names))


def _checked(
    options: Options, values: Mapping[str, Any], problems: list[str], *, are_texts: bool = False
) -> dict[str, Any]:
    """Return the values that are right, in their own types, and note what is wrong.

    ``are_texts`` says that they are the texts of variables.
    """
    right: dict[str, Any] = {}
    for name, value in values.items():
        option = options[name]
        try:
            right[name] = option.read(value) if are_texts else option.check(value)
        except ValueError as error:
            label = option.variable if are_texts else name
            problems.append(f"{label}={option.show(value)}: expected {error}")
    return right


def _across(options: Options, values: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """Return the problems of values that do not fit each other; others have their defaults.

    ``labels`` has the names of the values that the user gave by another name than the field's.
    """
    names = ("idle_min", "idle_max")
    shortest, longest = (values.get(name, options[name].default) for name in names)
    if shortest <= longest:
        return []
    low, high = (
        f"{labels.get(name, name)}={format_duration(seconds)}"
        for name, seconds in zip(names, (shortest, longest), strict=True)
    )
    return [f"{low}: expected no more than {high}"]


def _understand(options: Options, texts: dict[str, str]) -> list[str]:
    """Translate the values of shared variables into ours; drop unknown ones with a remark."""
    remarks = []
    for name in EVERYBODYS:
        text, option = texts.get(name), options[name]
        if text is None:
            continue
        known = understood(name, text, option.read)
        if known is None:
            del texts[name]
            remarks.append(
                f"{option.variable}={option.show(text)}: not understood, so {option.default_text}"
            )
        else:
            texts[name] = known
    return remarks


def _unknown_names(options: Options, names: Iterable[str]) -> list[str]:
    return [
        f"{name}: no such setting{suggestion(name, list(options))}"
        for name in names
        if name not in options
    ]


def _raise_all(problems: list[str]) -> None:
    """Raise one error for all problems, in one line if there is only one."""
    if not problems:
        return
    if len(problems) == 1:
        raise ConfigurationError(problems[0])
    lines = "".join(f"\n  {problem}" for problem in problems)
    msg = f"{len(problems)} settings are wrong:{lines}"
    raise ConfigurationError(msg)
