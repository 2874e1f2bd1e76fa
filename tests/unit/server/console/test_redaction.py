"""What the console may show of a job."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Shown
from convolab_worker.errors import ConfigurationError
from convolab_worker.server.console.redaction import Redaction

JOB = {"name": "speak", "queue": "audio"}


def deep(levels: int) -> Any:
    """A value of so many lists within each other."""
    value: Any = {"password": "hunter2"}
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("key", ["api_key", "apiKey", "API-KEY", "apikey"])
def test_a_field_is_found_by_its_name_in_any_spelling(key: str) -> None:
    redaction = Redaction(fields=("api_key",))

    shown = redaction.payload("data", [{"a": {key: {"b": 1}}, "c": 2}], **JOB)

    assert shown == [{"a": {key: "[not shown]"}, "c": 2}]


def test_what_is_too_deep_to_be_looked_at_is_not_shown() -> None:
    redaction = Redaction(fields=("password",))

    assert "hunter2" not in str(redaction.payload("data", deep(500), **JOB))
    assert "hunter2" not in str(redaction.payload("data", deep(98), **JOB))


def test_hidden_payloads_have_nothing_and_texts_stay() -> None:
    redaction = Redaction(hides=True)

    assert redaction.payload("data", {"a": 1}, **JOB) is None
    assert redaction.step('{"a": 1}', **JOB) is None
    assert redaction.text("reason", "no voice", **JOB) == "no voice"


def test_functions_of_all_registries_see_each_value_one_after_the_other() -> None:
    outer, inner = HandlerRegistry(), HandlerRegistry()
    outer.redact(lambda shown: f"{shown.value}1")
    inner.redact(lambda shown: f"{shown.value}2")
    outer.include(inner)
    redaction = Redaction(functions=outer.redactions)

    assert redaction.text("log", "row", **JOB) == "row12"


def test_a_function_that_raises_has_nothing_shown_and_is_logged() -> None:
    handlers = HandlerRegistry()

    @handlers.redact
    def broken(shown: Shown) -> Any:
        return shown.value["missing"]

    redaction = Redaction(functions=handlers.redactions)
    with capture_logs() as logs:
        assert redaction.payload("data", {"a": 1}, **JOB) == "[not shown]"
        assert redaction.text("stack", "Traceback", **JOB) == "[not shown]"
    assert [line["event"] for line in logs] == ["redact.raised"] * 2


def test_a_function_that_takes_no_value_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the Shown"):
        HandlerRegistry().redact(lambda: None)  # type: ignore[type-var]
