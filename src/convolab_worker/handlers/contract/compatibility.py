"""Says whether a worker takes what an API sends, and the API what the worker returns."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.contract.branches import Located
from convolab_worker.handlers.contract.document import jobs_in
from convolab_worker.handlers.contract.subset import Comparison, Sides

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Jobs = Mapping[tuple[str, str], Mapping[str, Any]]


class _Words(NamedTuple):
    """What is told of one part of a job.

    ``unknown`` is about a field that the receiver does not know, ``optional`` about one that is
    never sent and may be missing, ``wider`` about whatever else would be taken and is never sent.
    """

    what: str
    sides: Sides
    unknown: str
    optional: str
    wider: str


_PAYLOAD = _Words(
    "payload",
    Sides("the API", "sends", "send", "the worker"),
    unknown="the worker ignores it",
    optional="new, and may be left out",
    wider="the worker takes more than the API sends",
)
_RESULT = _Words(
    "result",
    Sides("the worker", "returns", "return", "the API"),
    unknown="new: the API does not read it yet",
    optional="the worker never returns it, and the API can do without",
    wider="the API takes more than the worker returns",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A difference between two contracts: where it is, and whether it breaks one of the sides."""

    queue: str
    name: str
    path: str
    breaks: bool
    text: str


def compare(committed: Mapping[str, Any], current: Mapping[str, Any]) -> list[Change]:
    """Compare the API's contract with the worker's.

    ``committed`` is what the API, or a job that waits already, was made by; ``current`` is the
    document of the handlers as they are. Raises ConfigurationError for a document of another form,
    and for a schema that can't be compared.
    """
    old, new = jobs_in(committed), jobs_in(current)
    changes: list[Change] = []
    for (queue, name), job in old.items():
        if (queue, name) not in new:
            changes.append(_gone(queue, name, committed, old, current, new))
            continue
        then, now = (job, committed), (new[queue, name], current)
        try:
            found = [
                *_changes(_PAYLOAD, sent=_part(_PAYLOAD, *then), taken=_part(_PAYLOAD, *now)),
                *_changes(_RESULT, sent=_part(_RESULT, *now), taken=_part(_RESULT, *then)),
            ]
        except RecursionError:
            msg = f"{queue}, {name}: the types are nested too deeply to be compared"
            raise ConfigurationError(msg) from None
        changes += [
            Change(queue=queue, name=name, path=path, breaks=breaks, text=text)
            for path, breaks, text in found or [("", False, "unchanged")]
        ]
    for queue, name in new:
        if (queue, name) not in old:
            text = "new: the API does not send it yet"
            changes.append(Change(queue=queue, name=name, path="", breaks=False, text=text))
    return changes


def _part(words: _Words, job: Mapping[str, Any], document: Mapping[str, Any]) -> Located:
    properties: dict[str, Any] = {**job["properties"]}
    return Located(properties.get(words.what, {}), (document,))


def _changes(words: _Words, sent: Located, taken: Located) -> Iterator[tuple[str, bool, str]]:
    """Yield the changes that break something, then the others, each place once."""
    breaking = Comparison(words.sides).misfits(sent, taken)
    for misfit in breaking:
        yield words.what + misfit.path, True, misfit.text
    unknown = Comparison(words.sides, tells_new=True).misfits(sent, taken)
    unsent = Comparison(words.sides, tells_new=True).misfits(taken, sent)
    notes = [(misfit.path, words.unknown) for misfit in unknown if misfit.is_new]
    notes += [(each.path, words.optional if each.is_new else words.wider) for each in unsent]
    known = {misfit.path for misfit in breaking}
    for path, text in notes:
        if path not in known:
            known.add(path)
            yield words.what + path, False, text


def _gone(
    queue: str,
    name: str,
    committed: Mapping[str, Any],
    old: Jobs,
    current: Mapping[str, Any],
    new: Jobs,
) -> Change:
    sent = _part(_PAYLOAD, old[queue, name], committed)
    fitting = [
        other
        for (where, other), job in new.items()
        if where == queue
        and (where, other) not in old
        and not Comparison(_PAYLOAD.sides).misfits(sent, _part(_PAYLOAD, job, current))
    ]
    near = get_close_matches(name, fitting, n=1, cutoff=0.4) or fitting[: len(fitting) == 1]
    elsewhere = [where for where, other in new if other == name]
    text = "no handler takes it"
    if near:
        text += f"; if it is called {near[0]} now, register it under its former name, too"
    elif elsewhere:
        text += f" on this queue; there is one on {', '.join(elsewhere)}"
    return Change(queue=queue, name=name, path="", breaks=True, text=text)
