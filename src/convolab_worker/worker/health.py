"""Whether a worker is well."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A worker's life, as another thread may see it.

    ``ready`` says that it is connected, or asleep and can be woken. ``overdue`` says that the loop
    that fetches jobs should have turned and has not.
    """

    state: str
    ready: bool
    overdue: bool
