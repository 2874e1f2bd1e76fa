"""``manage.py convolab_worker``: ``convolab-worker run`` for the tasks of this Django project."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from django.core.management.base import BaseCommand

from convolab_worker.cli.main import run
from convolab_worker.integrations.django.running import bullmq_backends
from convolab_worker.settings import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

_APP = "convolab_worker.integrations.django:handlers"


class Command(BaseCommand):  # type: ignore[misc] # Django has no types
    """Runs tasks until it is told to stop; its flags are those of ``convolab-worker run``."""

    help = "Runs the tasks of BullMQBackend; the flags are those of convolab-worker run."

    def run_from_argv(self, argv: Sequence[str]) -> NoReturn:
        """Be the process of the worker, which reads what the backend's OPTIONS say."""
        for variable, text in _variables().items():
            os.environ.setdefault(variable, text)
        run(["run", "--app", _APP, *argv[2:]])


def _variables() -> dict[str, str]:
    """The settings of the first backend as variables, with the queues of all on its Redis."""
    backends = bullmq_backends()
    if not backends:
        return {}
    first = backends[0]
    same = [
        backend
        for backend in backends
        if backend.settings.replace(queues=first.settings.queues) == first.settings
    ]
    queues = dict.fromkeys(queue for backend in same for queue in backend.bullmq_queues)
    given = {**first.setting_options, "queues": tuple(queues)}
    return {OPTIONS[name].variable: OPTIONS[name].kind.text(value) for name, value in given.items()}
