"""From what a run left behind to what can be compared, and the comparison.

What differs between any two runs, of whatever worker, is replaced: the key prefix, times of day,
ids of scheduler iterations and of children added at run time. Nothing else is.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.stopwatch import Stopwatch

# Wake-up hints, active_jobs and timers: they say when a worker looked, not what became of a job.
TRANSIENT = ("marker", "stalled", "stalled-check", "limiter")
_TIMES = {"timestamp", "processedOn", "finishedOn", "prevTS"}
# Sets that are kept in order of time: two jobs of one millisecond stand in order of their ids.
_TOLERANCE_MS = 25.0
_BY_TIME = {"completed", "failed", "delayed", "waiting-children"}
# Fields that hold the id of a job of the same queue.
_IDS = {"id", "nrjid", "nextRepeatableJobId"}
_ITERATION = re.compile(r"repeat:([^:]+):\d{13}")


@dataclass(frozen=True, slots=True)
class Near:
    """A duration in milliseconds, equal to another within a tolerance."""

    ms: float


@dataclass(frozen=True, slots=True)
class Stack:
    """The stack traces of a job: how many, and whether each says why it failed."""

    entries: int
    say_why: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """One place where two runs differ."""

    path: str
    node: Any
    ours: Any

    def __str__(self) -> str:
        return f"{self.path}\n    node: {_brief(self.node)}\n    ours: {_brief(self.ours)}"


def normalise(raw: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Make a snapshot comparable with another of the same scenario."""
    names = Names(raw["keys"], prefix)
    keys, events = {}, {}
    for key, dump in raw["keys"].items():
        short = names.text(key)
        _, queue, kind = short.split(":", 2)
        if kind in TRANSIENT:
            continue
        value = names.all(dump["value"])
        if kind == "events":
            events[short] = [_event(entry, names, queue) for entry in value]
        else:
            keys[short] = {**dump, "value": _value(dump["type"], kind, value, names, queue)}
    api = {queue: _report(report, names, queue) for queue, report in raw["api"].items()}
    return {"keys": keys, "events": events, "api": api, "observed": names.all(raw["observed"])}


def tolerance_with(watch: Stopwatch) -> float:
    """How far apart the waits of two runs may be, on a machine that was so busy meanwhile.

    A wait begins when a client reads the clock, and the server's event comes that much later.
    """
    return _TOLERANCE_MS + 2000 * watch.longest_lag


def gaps(
    node: Any, ours: Any, tolerance_ms: float = _TOLERANCE_MS, path: str = ""
) -> Iterator[Gap]:
    """Every place where the two differ, depth first."""
    if isinstance(node, dict) and isinstance(ours, dict):
        for name in sorted({*node, *ours}):
            here = f"{path}/{name}"
            if name not in node or name not in ours:
                yield Gap(here, node.get(name, "(absent)"), ours.get(name, "(absent)"))
            else:
                yield from gaps(node[name], ours[name], tolerance_ms, here)
    elif isinstance(node, list) and isinstance(ours, list) and len(node) == len(ours):
        for at, (one, other) in enumerate(zip(node, ours, strict=True)):
            yield from gaps(one, other, tolerance_ms, f"{path}/{at}")
    elif isinstance(node, list) and isinstance(ours, list):
        yield from _misaligned(node, ours, path)
    elif isinstance(node, Near) and isinstance(ours, Near):
        if abs(node.ms - ours.ms) > tolerance_ms:
            yield Gap(path, node.ms, ours.ms)
    elif type(node) is not type(ours) or node != ours:
        yield Gap(path, node, ours)


def _misaligned(node: list[Any], ours: list[Any], path: str) -> Iterator[Gap]:
    """What one of two lists has more, at its index in Node's; durations are left aside."""
    aligned = SequenceMatcher(a=[_shape(each) for each in node], b=[_shape(each) for each in ours])
    for tag, start, end, our_start, our_end in aligned.get_opcodes():
        if tag != "equal":
            yield Gap(f"{path}/{start}", node[start:end], ours[our_start:our_end])


def _shape(value: Any) -> str:
    if isinstance(value, dict):
        return repr(sorted((name, _shape(each)) for name, each in value.items()))
    return "~" if isinstance(value, Near) else repr(value)


class Names:
    """Names for the ids that a run makes up, numbered by queue in the order they were added.

    Iterations of a scheduler carry a time; children that a handler adds get an id of their
    worker's choice. Ids that producers gave or were counted for them stay as they are.
    """

    def __init__(self, keys: dict[str, Any], prefix: str) -> None:
        self._prefix = prefix
        self._by_queue: dict[str, dict[str, str]] = {}
        for key, dump in keys.items():
            if key.endswith(":events"):
                queue = key.removeprefix(f"{prefix}:").removesuffix(":events")
                self._by_queue[queue] = self._made_up(queue, dump["value"], keys)

    def _made_up(self, queue: str, events: list[Any], keys: dict[str, Any]) -> dict[str, str]:
        names: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for _, event in events:
            identity = event.get("jobId", "")
            if event["event"] != "added" or identity in names:
                continue
            job = keys.get(f"{self._prefix}:{queue}:{identity}", {}).get("value") or {}
            iteration = _ITERATION.fullmatch(identity)
            kind = f"repeat:{iteration[1]}" if iteration else "child" if _at_run_time(job) else ""
            if kind:
                counts[kind] += 1
                names[identity] = f"<{kind}#{counts[kind]}>"
        return names

    def id(self, queue: str, identity: str) -> str:
        """The name of a job id of that queue, where it stands by itself."""
        return self._by_queue.get(queue, {}).get(identity, identity)

    def text(self, text: str) -> str:
        """A text with the job keys in it renamed, and the prefix."""
        for queue, names in self._by_queue.items():
            for identity, name in names.items():
                key = f"{self._prefix}:{queue}:{identity}"
                if key in text:
                    text = re.sub(rf"{re.escape(key)}(?![\w.-])", f"P:{queue}:{name}", text)
        return text.replace(self._prefix, "P")

    def all(self, value: Any) -> Any:
        """A value with every text in it renamed."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.all(each) for each in value]
        if isinstance(value, dict):
            return {self.text(key): self.all(each) for key, each in value.items()}
        return value


def _at_run_time(job: dict[str, str]) -> bool:
    """Whether a handler added the job: it has a parent, and no id that its producer gave."""
    return "parentKey" in job and "jobId" not in json.loads(job["opts"])


def _value(type_: str, kind: str, value: Any, names: Names, queue: str) -> Any:
    if type_ == "hash":
        return _scheduler(value) if kind.startswith("repeat:") else _fields(value, names, queue)
    if type_ == "list":
        return [names.id(queue, each) for each in value]
    if type_ == "zset" and (kind in _BY_TIME or kind.endswith(":unsuccessful")):
        return sorted(names.id(queue, member) for member, _ in value)
    if kind == "repeat":
        return [member for member, _ in value]
    return value


def _fields(fields: dict[str, Any], names: Names, queue: str) -> dict[str, Any]:
    """Make a job's hash, or what Node's API makes of it, comparable."""
    found = {name: _field(name, value, fields) for name, value in fields.items()}
    for name in _IDS & found.keys():
        found[name] = names.id(queue, found[name])
    return found


def _field(name: str, value: Any, fields: dict[str, Any]) -> Any:
    if name in _TIMES and value is not None:
        return "<time>" if re.fullmatch(r"\d{13}", str(value)) else value
    if name == "stacktrace" and value is not None:
        stacks = json.loads(value) if isinstance(value, str) else value
        why = fields.get("failedReason") or ""
        return Stack(len(stacks), all(why in stack for stack in stacks[-1:]))
    if name == "opts":
        return _opts(json.loads(value) if isinstance(value, str) else value)
    if name == "delay" and str(value) != "0" and ("rjk" in fields or fields.get("repeatJobKey")):
        return "<until due>"
    return value


def _opts(opts: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a job's options what depends on the time of day."""
    if "timestamp" in opts:
        opts = {**opts, "timestamp": "<time>"}
    if "repeat" not in opts:
        return opts
    return {
        **opts,
        **{name: "<time>" for name in ("prevMillis", "delay") if name in opts},
        "jobId": _ITERATION.sub(r"repeat:\1:<time>", opts.get("jobId", "")),
        "repeat": _scheduler(opts["repeat"]),
    }


def _scheduler(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: "<time>" if name in {"next", "offset", "startDate", "endDate"} else value
        for name, value in fields.items()
    }


def _event(entry: list[Any], names: Names, queue: str) -> dict[str, Any]:
    identity, fields = entry
    found = {**fields, "jobId": names.id(queue, fields["jobId"])} if "jobId" in fields else fields
    if found["event"] == "delayed" and "delay" in found:
        wait = float(found["delay"]) - int(identity.partition("-")[0])
        scheduled = found["jobId"].startswith("<repeat:")
        return {**found, "delay": "<until due>" if scheduled else Near(wait)}
    return found


def _report(report: dict[str, Any], names: Names, queue: str) -> dict[str, Any]:
    """Make what Node's API says of a queue comparable."""
    jobs = {
        names.id(queue, identity): _described(described, names, queue)
        for identity, described in report["jobs"].items()
    }
    listed = {
        state: sorted(names.id(queue, identity) for identity in ids)
        for state, ids in report["listed"].items()
    }
    metrics = {
        name: {**found, "meta": {**found["meta"], "prevTS": "<time>"}}
        for name, found in report["metrics"].items()
    }
    schedulers = [_scheduler(each) for each in report["schedulers"]]
    return {**report, "jobs": jobs, "listed": listed, "metrics": metrics, "schedulers": schedulers}


def _described(described: dict[str, Any], names: Names, queue: str) -> dict[str, Any]:
    found: dict[str, Any] = names.all(described)
    job = found["job"]
    return {**found, "job": job if job is None else _fields(job, names, queue)}


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"
