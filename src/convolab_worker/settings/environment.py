"""Reads variables that other software writes, under our names or shared ones. Pure.

Kubernetes puts variables into every container for each Service, named after it, and Docker for
each link: a Service called ``convolab-worker`` makes ``CONVOLAB_WORKER_PORT``. ``LOG_LEVEL``,
``LOG_FORMAT`` and ``PORT`` belong to whoever reads them, in values of their own. Neither stops a
process.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from convolab_worker.settings.kinds import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

VARIABLES_START = "CONVOLAB_"
UNKNOWN_SETTING = "no such setting"
EVERYBODYS = ("log_level", "log_format", "port", "k_service")
"""The settings whose variables other software sets and reads, too."""

_SERVICE_LINK = (  # compiled for the first unknown variable
    r"(?a)(.*_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
    r"|ENV_\w+)"
)
_LEVELS = {
    "debug": ("trace", "silly", "verbose", "fine", "finest", "all", "notset", "10"),
    "info": ("information", "notice", "http", "log", "default", "20"),
    "warning": ("warn", "30"),
    "error": ("err", "severe", "40"),
    "critical": ("fatal", "crit", "alert", "emergency", "emerg", "panic", "off", "none", "50"),
}
_FORMATS = {
    "text": (
        "pretty", "console", "plain", "human", "simple", "dev", "color", "colored", "tty", "txt",
    ),
    "json": ("structured", "jsonl", "ndjson", "logstash", "ecs", "gelf"),
    "google": ("gcp", "stackdriver", "cloud"),
}  # fmt: skip
_MEANINGS = {
    name: {word: value for value, words in known.items() for word in words}
    for name, known in (("log_level", _LEVELS), ("log_format", _FORMATS))
}


def unknown_variables(environ: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """Returns a remark for each variable that has our prefix and is not ours.

    Those that Kubernetes or Docker have written for a service are passed over.
    """
    ours = list(known)
    return [
        f"{name}: {UNKNOWN_SETTING}{suggestion(name.upper(), ours)}"
        for name in sorted(environ)
        if name.upper().startswith(VARIABLES_START)
        and name not in ours
        and re.fullmatch(_SERVICE_LINK, name.removeprefix(VARIABLES_START)) is None
    ]


def understood(name: str, text: str, read: Callable[[str], object]) -> str | None:
    """Returns the text of one of EVERYBODYS variables as a text of ours, or None.

    ``read`` raises ValueError for a text that is not one of ours.
    """
    word = text.strip().lower()
    for candidate in (text, _MEANINGS.get(name, {}).get(word)):
        if candidate is None:
            continue
        try:
            read(candidate)
        except ValueError:
            continue
        return candidate
    return None
