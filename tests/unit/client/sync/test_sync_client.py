"""SyncJobClient has JobClient's methods, all of them, with the same arguments and docs."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from convolab_worker import JobClient, SyncJobClient


def public(cls: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in inspect.getmembers(cls)
        if not name.startswith("_") and callable(value)
    }


def test_no_method_is_missing_and_none_is_further() -> None:
    assert public(SyncJobClient).keys() == public(JobClient).keys()


@pytest.mark.parametrize("name", sorted(public(JobClient)))
def test_arguments_and_docs_are_the_same(name: str) -> None:
    ours, theirs = getattr(SyncJobClient, name), getattr(JobClient, name)

    assert _arguments(ours) == _arguments(theirs)
    assert inspect.getdoc(ours) == inspect.getdoc(theirs)
    assert not inspect.iscoroutinefunction(ours)


def _arguments(method: Any) -> list[tuple[str, Any, Any]]:
    """The method's own; those of what it wraps where it takes whatever that takes."""
    takes_anything = "args" in inspect.signature(method, follow_wrapped=False).parameters
    signature = inspect.signature(method, follow_wrapped=takes_anything)
    return [(each.name, each.kind, each.default) for each in signature.parameters.values()]
