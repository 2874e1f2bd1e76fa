"""What every job of the example has, unless its producer says otherwise."""

from __future__ import annotations

from convolab_worker import Exponential, JobPolicy

POLICY: JobPolicy = {
    "attempts": 3,
    "backoff": Exponential(2, longest=60),
    "keep_completed": "1000/7d",  # long enough for the API to read a result
    "keep_failed": "30d",  # long enough for somebody to look
}
