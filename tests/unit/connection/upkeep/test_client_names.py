"""The name by which Node's getWorkers() knows a connection."""

from __future__ import annotations

import pytest

from convolab_worker.connection.upkeep.client_names import client_name


@pytest.mark.parametrize(
    ("queue", "name"),
    [
        ("audio-generation", "bull:YXVkaW8tZ2VuZXJhdGlvbg==:w:host:1"),
        ("日本語", "bull:5pel5pys6Kqe:w:host:1"),
        ("a", "bull:YQ==:w:host:1"),
    ],
)
def test_a_name_is_prefix_queue_in_base64_and_worker(queue: str, name: str) -> None:
    """As BullMQ's clientName makes it: standard base64 of UTF-8, padded."""
    assert client_name("bull", queue, "host:1") == name
