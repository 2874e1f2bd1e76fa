"""The dashboard and the alert rules of deploy/, against what a real wake server exposes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import promql_parser
import pytest
import pytest_asyncio
import yaml
from prometheus_client.parser import text_string_to_metric_families

from convolab_worker import HandlerRegistry, Job, Settings
from tests.support.markdown import ROOT
from tests.support.serving import serving
from tests.support.waiting import wait_until

DASHBOARD = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text("utf-8"))
RULES = yaml.safe_load((ROOT / "deploy/alerts.yaml").read_text("utf-8"))["groups"][0]["rules"]
# Grafana puts these in before it asks.
VARIABLES = {"$__rate_interval": "5m", "$instance": "a"}
# Those that Prometheus adds to what it scrapes, and the buckets'.
ADDED_LABELS = {"instance", "job", "le"}


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression of both files, with the panel or the alert that asks it."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


def selectors(expression: Any) -> Iterator[tuple[str, set[str]]]:
    """The metrics that a parsed expression reads, each with the labels that it names."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression.name or "", {matcher.name for matcher in expression.matchers.matchers}
    elif isinstance(expression, promql_parser.MatrixSelector):
        yield from selectors(expression.vector_selector)
    else:
        for part in ("expr", "lhs", "rhs", "args"):
            inner = getattr(expression, part, None)
            for each in inner if isinstance(inner, list) else [inner]:
                if each is not None:
                    yield from selectors(each)


@pytest_asyncio.fixture
async def exposed(make_settings: Callable[..., Settings]) -> dict[str, set[str]]:
    """The samples of a server whose worker has a budget and has run a job, with their labels.

    Its queue is paused then, and one of its handlers is bound to a queue that it does not serve.
    """
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(_job: Job[Any]) -> None:
        pass

    handlers.image("draw", queue="elsewhere")(work)
    settings = make_settings(command_budget=1000)
    async with serving(handlers, settings) as (_, client, session):
        await client.result(await client.enqueue("work", {}), timeout=20)
        await client.pause()
        await client.enqueue("work", {})
        text = ""

        async def tells_of_the_pause() -> bool:
            nonlocal text
            async with session.get("/health"), session.get("/wake"):
                pass
            async with session.get("/metrics") as answer:
                text = await answer.text()
            return "queue_stopped{" in text

        await wait_until(tells_of_the_pause, what="the pause to be known")
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.asyncio
async def test_every_metric_that_they_name_is_exposed(exposed: dict[str, set[str]]) -> None:
    """Every expression is PromQL, over names and labels that the server has."""
    unknown = []
    for where, text in expressions():
        filled = text
        for variable, value in VARIABLES.items():
            filled = filled.replace(variable, value)
        found = list(selectors(promql_parser.parse(filled)))
        assert found, f"{where} reads no metric: {text}"
        for name, labels in found:
            if name not in exposed or labels - exposed[name] - ADDED_LABELS:
                unknown.append((where, name, sorted(labels)))

    assert unknown == []


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    """Each panel has a place of its own in a grid of 24 columns, a title and a description."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert panel["title"]
        assert panel["description"]
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells

    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
