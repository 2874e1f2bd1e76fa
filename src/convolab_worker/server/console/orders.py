"""What the console is asked to do: the body of a request, checked, and the calls that do it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from convolab_worker.errors import JobNotFound, JobNotRunning, WrongState
from convolab_worker.settings.units import is_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convolab_worker.client.console.client import ConsoleClient

MOST_JOBS = 500
"""How many jobs one action is done to, at most."""
_ON_JOBS = ("retry", "promote", "remove", "cancel")
_ON_QUEUE = ("pause", "resume")
ACTIONS = (*_ON_JOBS, *_ON_QUEUE, "enqueue", "unschedule")
_FLAGS = ("reset_attempts", "forget_steps")
_OPTIONS = ("delay", "priority", "attempts")


class Order(Struct, frozen=True, kw_only=True):
    """An action that was asked for, checked.

    ``state`` is where the jobs of ``ids`` were seen, or None. ``flags`` say how to retry. ``name``,
    ``data`` and ``options`` are a new job's, ``schedule`` is the id of the one to remove.
    """

    action: str
    queue: str
    ids: Sequence[str] = ()
    state: str | None = None
    flags: Mapping[str, bool] = {}
    name: str = ""
    data: Any = None
    options: Mapping[str, Any] = {}
    schedule: str | None = None

    @classmethod
    def read(cls, body: bytes) -> Order:
        """Return the order of a request's body. Raises ValueError with what was expected."""
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            msg = "expected a JSON object"
            raise ValueError(msg)  # noqa: TRY004 - the caller treats it like any other wrong body
        values = {name: given.get(name, each.default) for name, each in _FIELDS.items()}
        for name, each in _FIELDS.items():
            _require(name, each.expected, each.fits(values[name]))
        flags = {name: values.pop(name) for name in _FLAGS}
        order, action = cls(**values, flags=flags, data=given.get("data")), values["action"]
        many = f"1 to {MOST_JOBS} jobs for {', '.join(_ON_JOBS)}, none otherwise"
        _require("ids", many, (action in _ON_JOBS) == (0 < len(order.ids) <= MOST_JOBS))
        _require("name", "that of a job to enqueue", (action == "enqueue") == bool(order.name))
        is_fitting = (action == "unschedule") == bool(order.schedule)
        _require("schedule", "the id of one to remove", is_fitting)
        return order

    async def carry_out(self, client: ConsoleClient) -> dict[str, Any]:
        """Do it; return how many jobs it was ``done`` to, and the ``id`` of a new job."""
        if self.action == "enqueue":
            job_id = await client.enqueue(self.name, self.data, queue=self.queue, **self.options)
            return {"done": 1, "id": str(job_id)}
        return {"done": await self._count(client)}

    async def _count(self, client: ConsoleClient) -> int:
        ids: Any = self.ids[0] if len(self.ids) == 1 else self.ids
        if self.action in _ON_QUEUE:
            await (client.pause if self.action == "pause" else client.resume)(self.queue)
            return 1
        if self.action == "unschedule":
            return int(await client.unschedule(self.schedule or "", self.queue))
        if self.action == "cancel":
            return await self._cancel(client)
        flags = self.flags if self.action == "retry" else {}
        if self.state is not None:
            kind: Any = self.action
            return await client.act(kind, self.queue, self.state, self.ids, **flags)
        if self.action == "retry":
            return await client.retry(ids, queue=self.queue, **flags)
        return await (client.promote if self.action == "promote" else client.remove)(
            ids, queue=self.queue
        )

    async def _cancel(self, client: ConsoleClient) -> int:
        done = 0
        for job_id in self.ids:
            try:
                await client.cancel(job_id, queue=self.queue, wait=False)
            except (JobNotFound, JobNotRunning, WrongState):
                if len(self.ids) == 1:
                    raise
                continue
            done += 1
        return done


def _require(name: str, expected: str, is_fitting: bool) -> None:  # noqa: FBT001
    if not is_fitting:
        msg = f"{name}: expected {expected}"
        raise ValueError(msg)


class _Field(NamedTuple):
    """A field of the body: what it must be, in words and as a check, and its default."""

    expected: str
    fits: Callable[[Any], bool]
    default: Any = None


_FLAG = _Field("true or false", lambda value: isinstance(value, bool), default=False)
_FIELDS = {
    "action": _Field(f"one of {', '.join(ACTIONS)}", lambda value: value in ACTIONS),
    "queue": _Field("the name of a queue", lambda value: is_text(value) and ":" not in value),
    "ids": _Field(
        "a list of job ids",
        lambda value: isinstance(value, list) and all(map(is_text, value)),
        default=[],
    ),
    "state": _Field("the name of a state", lambda value: value is None or is_text(value)),
    **dict.fromkeys(_FLAGS, _FLAG),
    "name": _Field("the name of a job", lambda value: isinstance(value, str), default=""),
    "options": _Field(
        f"an object with some of {', '.join(_OPTIONS)}",
        lambda value: isinstance(value, dict) and {*value} <= {*_OPTIONS},
        default={},
    ),
    "schedule": _Field("the id of a schedule", lambda value: value is None or is_text(value)),
}
