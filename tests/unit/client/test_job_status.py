"""What a job's record says of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from convolab_worker.client.job_status import as_status

CARRIED = json.dumps({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tm": CARRIED}, "a" * 32),
        ({"telemetry": {"metadata": CARRIED}}, "a" * 32),
        ({}, None),
        ({"tm": "not JSON"}, None),
        ({"tm": "[1]"}, None),
        ({"tm": '{"traceparent": 7}'}, None),
        ({"tm": '{"traceparent": "00-b"}'}, None),
        ({"tm": {"traceparent": "00-b"}, "telemetry": 3}, None),
    ],
)
def test_the_trace_that_a_job_was_added_in_is_in_its_options(
    options: dict[str, Any], expected: str | None
) -> None:
    job = as_status("q", "1", "waiting", [b"opts", json.dumps(options).encode()])

    assert job is not None
    assert job.trace_id == expected
