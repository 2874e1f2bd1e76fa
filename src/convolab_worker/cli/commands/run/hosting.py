"""Which platform the process runs on, by the variables that platforms set. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform that names itself in ``variable``.

    ``wake_mode`` is what ``auto`` means there: ``held`` where an open request is what keeps an
    instance running, ``background`` where it is not.
    """

    name: str
    variable: str
    wake_mode: str


PLATFORMS = (
    Platform("Cloud Run", "K_SERVICE", "held"),
    Platform("Fly.io", "FLY_MACHINE_ID", "held"),
    Platform("Azure Container Apps", "CONTAINER_APP_NAME", "held"),
    Platform("Railway", "RAILWAY_SERVICE_ID", "background"),
    Platform("Render", "RENDER_SERVICE_ID", "background"),
)


def platform_of(environ: Mapping[str, str]) -> Platform | None:
    """The platform that set the variables; None on a machine of one's own."""
    return next((known for known in PLATFORMS if environ.get(known.variable)), None)
