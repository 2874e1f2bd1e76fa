"""Whether there is tracing: only where it is asked for."""

from __future__ import annotations

import sys

import pytest

from convolab_worker import Settings
from convolab_worker.errors import ConfigurationError
from convolab_worker.telemetry.tracing import NO_TRACING, tracing


def test_there_is_none_unless_asked_for() -> None:
    """By default nothing is imported, and nothing is carried on."""
    assert tracing(Settings()) is NO_TRACING
    assert NO_TRACING.carried() == {}
    with NO_TRACING.adding("audio", "speak") as carried:
        assert carried == {}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is connected, with what to install."""
    monkeypatch.setitem(sys.modules, "convolab_worker.telemetry.otel", None)

    with pytest.raises(ConfigurationError, match=r"CONVOLAB_OTEL=on: needs pip install"):
        tracing(Settings(otel="on"))
