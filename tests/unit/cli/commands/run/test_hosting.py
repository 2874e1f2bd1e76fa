"""Platforms name themselves, and say by that what keeps an instance running."""

from __future__ import annotations

import pytest

from convolab_worker.cli.commands.run.hosting import PLATFORMS, platform_of


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_a_platform_is_known_by_its_variable(platform: object) -> None:
    """Also beside the variables of others' software; an empty one is none."""
    known = next(each for each in PLATFORMS if each is platform)

    assert platform_of({"HOME": "/", known.variable: "x"}) is known
    assert platform_of({known.variable: ""}) is None


def test_elsewhere_there_is_none() -> None:
    """A laptop, a virtual machine, Kubernetes."""
    assert platform_of({"HOME": "/root", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None
