"""The names of one queue's Redis keys, as BullMQ writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SUFFIXES = (
    "", "active", "wait", "waiting-children", "paused", "completed", "failed", "delayed",
    "repeat", "stalled", "limiter", "prioritized", "id", "stalled-check", "meta", "pc", "events",
    "marker",
)  # fmt: skip

OWN_KEYS = frozenset(_SUFFIXES)
"""What no job may be called: its hash would be one of the queue's own keys."""

# Where a job can stand, in the order in which BullMQ's getStateV2 wants the keys.
STATE_KEYS = (
    "completed", "failed", "delayed", "active", "wait", "paused", "waiting-children",
    "prioritized",
)  # fmt: skip


def can_be_an_id(text: str) -> bool:
    """Whether a queue can have a job of that id."""
    return text not in OWN_KEYS and can_be_in_a_key(text)


def can_be_in_a_key(text: str) -> bool:
    """Whether Redis can have a key with that text, whose bytes may be something else than UTF-8."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def queue_and_id(prefix: str, job_key: str) -> tuple[str, str]:
    """Returns the queue and the id in a job's key; ``prefix`` is likely, and may be another.

    The id of a job that a scheduler made has colons: ``repeat:NAME:MILLISECONDS``.
    """
    own = job_key.removeprefix(f"{prefix}:")
    if own == job_key:
        _, _, own = job_key.partition(":")
    queue, _, job_id = own.partition(":")
    return queue, job_id


class QueueKeys:
    """The keys of ``queue`` under ``prefix``: ``keys["wait"]`` is ``prefix:queue:wait``."""

    __slots__ = ("_by_suffix", "_listed", "base", "queue")

    def __init__(self, prefix: str, queue: str) -> None:
        self.queue = queue
        self.base = f"{prefix}:{queue}:"
        self._by_suffix = {suffix: self.base + suffix for suffix in _SUFFIXES}
        self._listed: dict[tuple[str, ...], list[str]] = {}

    def __getitem__(self, suffix: str) -> str:
        """Returns the key of that suffix; that of ``""`` is the queue's key prefix."""
        return self._by_suffix[suffix]

    def named(self, *suffixes: str) -> list[str]:
        by_suffix = self._by_suffix
        return [by_suffix[suffix] for suffix in suffixes]

    def listed(self, suffixes: tuple[str, ...]) -> Sequence[str]:
        """Returns the same for a constant list of suffixes, which is remembered."""
        known = self._listed.get(suffixes)
        if known is None:
            known = self._listed[suffixes] = self.named(*suffixes)
        return known

    def job(self, job_id: str) -> str:
        return self.base + job_id

    def lock(self, job_id: str) -> str:
        return f"{self.base}{job_id}:lock"
