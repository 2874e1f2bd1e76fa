"""Says whether a worker takes what an API sends, and the API what the worker returns."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.contract.branches import Located
from convolab_worker.handlers.contract.document import jobs_in
from convolab_worker.handlers.contract.subset import Comparison, Sides

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convolab_worker.handlers.contract.subset import Misfit

    Jobs = Mapping[tuple[str, str], Mapping[str, Any]]

_PAYLOAD = Sides("the API", "sends", "send", "the worker")
_RESULT = Sides("the worker", "returns", "return", "the API")


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
        pairs = [(job, committed), (new[queue, name], current)]
        try:
            found = [*_payload_changes(*pairs), *_result_changes(*pairs)]
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


def _part(job: Mapping[str, Any], document: Mapping[str, Any], what: str) -> Located:
    properties: dict[str, Any] = {**job["properties"]}
    return Located(properties.get(what, {}), (document,))


def _payload_changes(
    old: tuple[Mapping[str, Any], Mapping[str, Any]],
    new: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> Iterator[tuple[str, bool, str]]:
    sent, taken = _part(*old, "payload"), _part(*new, "payload")
    yield from _told(
        "payload",
        breaking=Comparison(_PAYLOAD).misfits(sent, taken),
        unknown=(
            Comparison(_PAYLOAD, tells_new=True).misfits(sent, taken),
            "the worker ignores it",
        ),
        wider=(
            Comparison(_PAYLOAD, tells_new=True).misfits(taken, sent),
            "new, and may be left out",
            "the worker takes more than the API sends",
        ),
    )


def _result_changes(
    old: tuple[Mapping[str, Any], Mapping[str, Any]],
    new: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> Iterator[tuple[str, bool, str]]:
    sent, taken = _part(*new, "result"), _part(*old, "result")
    yield from _told(
        "result",
        breaking=Comparison(_RESULT).misfits(sent, taken),
        unknown=(
            Comparison(_RESULT, tells_new=True).misfits(sent, taken),
            "new: the API does not read it yet",
        ),
        wider=(
            Comparison(_RESULT, tells_new=True).misfits(taken, sent),
            "the worker never returns it, and the API can do without",
            "the API takes more than the worker returns",
        ),
    )


def _told(
    what: str,
    *,
    breaking: list[Misfit],
    unknown: tuple[list[Misfit], str],
    wider: tuple[list[Misfit], str, str],
) -> Iterator[tuple[str, bool, str]]:
    """Yield the changes that break something, then the others, each place once.

    ``unknown`` has the fields that the receiver does not know, with the words for them; ``wider``
    has what the receiver would take but is never sent, with the words for fields and for the rest.
    """
    for misfit in breaking:
        yield what + misfit.path, True, misfit.text
    known = {misfit.path for misfit in breaking}
    notes = [(misfit.path, unknown[1]) for misfit in unknown[0] if misfit.is_new]
    notes += [(misfit.path, wider[1] if misfit.is_new else wider[2]) for misfit in wider[0]]
    for path, text in notes:
        if path not in known:
            known.add(path)
            yield what + path, False, text


def _gone(
    queue: str,
    name: str,
    committed: Mapping[str, Any],
    old: Jobs,
    current: Mapping[str, Any],
    new: Jobs,
) -> Change:
    sent = _part(old[queue, name], committed, "payload")
    fitting = [
        other
        for (where, other), job in new.items()
        if where == queue
        and (where, other) not in old
        and not Comparison(_PAYLOAD).misfits(sent, _part(job, current, "payload"))
    ]
    near = get_close_matches(name, fitting, n=1, cutoff=0.4) or fitting[: len(fitting) == 1]
    elsewhere = [where for where, other in new if other == name]
    text = "no handler takes it"
    if near:
        text += f"; if it is called {near[0]} now, register it under its former name, too"
    elif elsewhere:
        text += f" on this queue; there is one on {', '.join(elsewhere)}"
    return Change(queue=queue, name=name, path="", breaks=True, text=text)
