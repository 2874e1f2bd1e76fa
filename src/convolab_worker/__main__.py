"""``python -m convolab_worker``: the same as the script ``convolab-worker``."""

from __future__ import annotations

from convolab_worker.cli.main import run

if __name__ == "__main__":
    run()
