"""``python -m convolab_worker``: the same as the script ``convolab-worker``."""

from __future__ import annotations

import sys

from convolab_worker.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
