"""Says whether a worker takes what an API sends, and the API what the worker returns."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from convolab_worker.contract.branches import Located
from convolab_worker.contract.document import jobs_in
from convolab_worker.contract.subset import Comparison, Misfit, Sides
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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
    breaking = Comparison(_PAYLOAD).misfits(sent, taken)
    yield from _told("payload", breaking)
    ignored = Comparison(_PAYLOAD, tells_new=True).misfits(sent, taken)
    wider = Comparison(_PAYLOAD, tells_new=True).misfits(taken, sent)
    yield from _notes("payload", breaking, ignored, "the worker ignores it", "")
    yield from _notes(
        "payload",
        breaking,
        wider,
        "new, and may be left out",
        "the worker takes more than the API sends",
    )


def _result_changes(
    old: tuple[Mapping[str, Any], Mapping[str, Any]],
    new: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> Iterator[tuple[str, bool, str]]:
    sent, taken = _part(*new, "result"), _part(*old, "result")
    breaking = Comparison(_RESULT).misfits(sent, taken)
    yield from _told("result", breaking)
    ignored = Comparison(_RESULT, tells_new=True).misfits(sent, taken)
    wider = Comparison(_RESULT, tells_new=True).misfits(taken, sent)
    yield from _notes("result", breaking, ignored, "new: the API does not read it yet", "")
    yield from _notes(
        "result",
        breaking,
        wider,
        "the worker never returns it, and the API can do without",
        "the API takes more than the worker returns",
    )


def _told(what: str, misfits: Iterable[Misfit]) -> Iterator[tuple[str, bool, str]]:
    for misfit in misfits:
        yield what + misfit.path, True, misfit.text


def _notes(
    what: str, breaking: Iterable[Misfit], misfits: Iterable[Misfit], new: str, other: str
) -> Iterator[tuple[str, bool, str]]:
    """Yield what differs without breaking: at places where nothing breaks."""
    broken = {misfit.path for misfit in breaking}
    told = set()
    for misfit in misfits:
        text = new if misfit.is_new else other
        if text and misfit.path not in broken and misfit.path not in told:
            told.add(misfit.path)
            yield what + misfit.path, False, text


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
