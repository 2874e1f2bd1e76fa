"""Django's Tasks on BullMQ: the backend for ``TASKS``, and what the worker runs.

For ``django.tasks`` of Django 6, and for the package django-tasks with Django before. As an entry
of ``INSTALLED_APPS`` it brings the command ``manage.py convolab_worker``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.integrations.django.backend import BullMQBackend

__all__ = ["BullMQBackend", "handlers"]


def handlers() -> HandlerRegistry:
    """Return a handler for each task of the installed applications; Django is set up if need be.

    That is every ``@task`` in a module called ``tasks`` of an application, and in all that is
    imported by then. For the command line: ``--app convolab_worker.integrations.django:handlers``.
    """
    from convolab_worker.integrations.django.running import task_handlers

    return task_handlers()


def __getattr__(name: str) -> Any:
    """Import the backend when it is asked for: Django imports this package as an application."""
    if name != "BullMQBackend":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from convolab_worker.integrations.django.backend import BullMQBackend

    return BullMQBackend
