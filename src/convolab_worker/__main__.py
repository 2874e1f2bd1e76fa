"""``python -m convolab_worker``, and the script ``convolab-worker``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker.cli.process.garbage import look_seldom

if TYPE_CHECKING:
    from typing import NoReturn


def run() -> NoReturn:
    """Be the process of the command that is given; everything else is imported here."""
    look_seldom()
    from convolab_worker.cli import main

    main.run()


if __name__ == "__main__":
    run()
