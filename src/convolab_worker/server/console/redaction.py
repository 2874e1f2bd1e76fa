"""What may be shown of a job: payloads, fields and functions decide."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from convolab_worker.handlers.around.redaction import NOT_SHOWN, Redactions, Shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.settings import Settings

_MOST_LEVELS = 100


class Redaction:
    """Turns what a job has into what may be shown of it.

    ``hides`` leaves payloads out. ``fields`` are hidden at any depth of a payload; case, ``_`` and
    ``-`` do not count in their names. ``functions`` are the application's.
    """

    def __init__(
        self,
        *,
        hides: bool = False,
        fields: Iterable[str] = (),
        functions: Redactions | None = None,
    ) -> None:
        self.hides = hides
        self._fields = {_plain(name) for name in fields}
        self._functions = functions or Redactions()

    @classmethod
    def of(cls, settings: Settings, functions: Redactions | None) -> Redaction:
        return cls(
            hides=settings.console_payloads == "hidden",
            fields=settings.console_redact or (),
            functions=functions,
        )

    def payload(self, what: str, value: Any, *, name: str, queue: str) -> Any:
        """Return what may be shown of data, a result, progress or a step; None if all is hidden."""
        if self.hides or value is None:
            return None
        if self._fields:
            value = self._without_fields(value, _MOST_LEVELS)
        return self._applied(what, value, name, queue)

    def text(self, what: str, text: str | None, *, name: str, queue: str) -> str | None:
        """Return what may be shown of a reason, a stack or a row of a log."""
        if text is None:
            return None
        shown = self._applied(what, text, name, queue)
        return shown if isinstance(shown, str) else NOT_SHOWN

    def step(self, text: str, *, name: str, queue: str) -> str | None:
        """Return what may be shown of a step's result, which is JSON as text."""
        if self.hides:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        shown = self.payload("step", value, name=name, queue=queue)
        return text if shown == value else json.dumps(shown, ensure_ascii=False, default=str)

    def contains(self, job: JobStatus, wanted: str) -> bool:
        """Whether a text is in what may be shown of a job: its id, name, reason or data."""
        names = {"name": job.name, "queue": job.queue}
        data = self.payload("data", job.data, **names)
        parts = (
            job.id,
            job.name,
            self.text("reason", job.failed_reason, **names) or "",
            "" if data is None else json.dumps(data, ensure_ascii=False, default=str),
        )
        return any(wanted.lower() in part.lower() for part in parts)

    def live(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """Return a worker's status snapshot as it may be shown."""

        def reasoned(entry: dict[str, Any]) -> dict[str, Any]:
            names = {"name": entry["name"], "queue": entry["queue"]}
            return {**entry, "reason": self.text("reason", entry["reason"], **names)}

        jobs = [
            {
                **job,
                "progress": self.payload(
                    "progress", job["progress"], name=job["name"], queue=job["queue"]
                ),
            }
            for job in snapshot["jobs"]
        ]
        recent, reasons = snapshot["recent"], snapshot["reasons"]
        if self._functions.functions:
            recent, reasons = [*map(reasoned, recent)], [*map(reasoned, reasons)]
        return {**snapshot, "jobs": jobs, "recent": recent, "reasons": reasons}

    def _applied(self, what: str, value: Any, name: str, queue: str) -> Any:
        if not self._functions.functions:
            return value
        return self._functions.applied(Shown(what=what, value=value, name=name, queue=queue))

    def _without_fields(self, value: Any, levels: int) -> Any:
        if not levels:
            return NOT_SHOWN
        if isinstance(value, dict):
            return {
                key: NOT_SHOWN
                if _plain(str(key)) in self._fields
                else self._without_fields(part, levels - 1)
                for key, part in value.items()
            }
        if isinstance(value, list):
            return [self._without_fields(part, levels - 1) for part in value]
        return value


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
