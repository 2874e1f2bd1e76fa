"""Which jobs an operator wants: by name, age and the reason of a failure. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convolab_worker.errors import ConfigurationError
from convolab_worker.settings.units import is_count, is_seconds

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from convolab_worker.client.job_status import Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A filter of jobs: one fits if it fits all parts that are set.

    Ages are in seconds: since a job ended or, before that, since it was added.
    """

    names: Collection[str] = ()
    older_than: float | None = None
    newer_than: float | None = None
    reason: re.Pattern[str] | None = None

    @classmethod
    def of(
        cls,
        *,
        name: str | Sequence[str] | None = None,
        older_than: float | None = None,
        newer_than: float | None = None,
        reason: str | None = None,
    ) -> Wanted:
        """Return the filter of these arguments.

        Raises ConfigurationError for a wrong pattern, or an age that can't be.
        """
        check_age("older_than", older_than)
        check_age("newer_than", newer_than)
        try:
            pattern = None if reason is None else reason_pattern(reason)
        except ValueError as error:
            msg = f"reason={reason!r}: expected {error}"
            raise ConfigurationError(msg) from None
        names = [name] if isinstance(name, str) else name
        return cls(
            names=tuple(names or ()), older_than=older_than, newer_than=newer_than, reason=pattern
        )

    @property
    def is_everything(self) -> bool:
        """Whether every job fits."""
        return self == Wanted()

    @property
    def is_about_record(self) -> bool:
        """Whether a job's record has to be read to tell if it fits."""
        return bool(self.names) or self.reason is not None

    def between(self, now: float) -> tuple[str, str]:
        """Return the bounds of fitting times of an end, as scores: milliseconds, or infinity."""
        earliest = "-inf" if self.newer_than is None else f"{(now - self.newer_than) * 1000:.0f}"
        latest = "+inf" if self.older_than is None else f"{(now - self.older_than) * 1000:.0f}"
        return earliest, latest

    def fits(self, job: Seen, now: float) -> bool:
        """Say whether a job is wanted; ``now`` is epoch seconds."""
        return (
            (not self.names or job.name in self.names)
            and (self.reason is None or self.reason.search(job.reason) is not None)
            and (self.older_than is None or job.at <= now - self.older_than)
            and (self.newer_than is None or job.at >= now - self.newer_than)
        )


def check_age(what: str, age: object) -> None:
    """Raises ConfigurationError unless ``age`` is None or seconds."""
    if age is not None and not is_seconds(age):
        msg = f"{what}={age!r}: expected seconds, 0 or more"
        raise ConfigurationError(msg)


def check_limit(limit: object) -> None:
    """Raises ConfigurationError unless ``limit`` is None or how many jobs there may be."""
    if limit is not None and not is_count(limit, 0):
        msg = f"limit={limit!r}: expected a whole number, 0 or more"
        raise ConfigurationError(msg)


def reason_pattern(given: str) -> re.Pattern[str]:
    """Return a pattern of reasons: text, in any case, or a regular expression between slashes.

    Raises ValueError with what was expected.
    """
    if len(given) > 1 and given.startswith("/") and given.endswith("/"):
        try:
            return re.compile(given[1:-1])
        except re.error as error:
            msg = f"a regular expression between the slashes ({error})"
            raise ValueError(msg) from None
    return re.compile(re.escape(given), re.IGNORECASE)
