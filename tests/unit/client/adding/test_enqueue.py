"""What a job's own id is made of."""

from __future__ import annotations

import os
from typing import Any

import pytest

from convolab_worker.client.adding.enqueue import quickest_random_bytes


def _forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def getrandom(*_: Any) -> bytes:
        raise PermissionError

    monkeypatch.setattr(os, "getrandom", getrandom, raising=False)


def _remove(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getrandom", raising=False)


@pytest.mark.parametrize("gone", [_forbid, _remove])
def test_ids_are_made_where_a_system_has_no_getrandom_or_forbids_it(
    monkeypatch: pytest.MonkeyPatch, gone: Any
) -> None:
    gone(monkeypatch)

    assert quickest_random_bytes() is os.urandom
