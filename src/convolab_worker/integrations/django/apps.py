"""The package as an application of Django's."""

from django.apps import AppConfig


class ConvolabWorkerConfig(AppConfig):  # type: ignore[misc] # Django has no types
    """Brings ``manage.py convolab_worker``."""

    name = "convolab_worker.integrations.django"
    label = "convolab_worker"
    verbose_name = "convolab_worker"
