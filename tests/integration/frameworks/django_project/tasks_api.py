"""Django's own Tasks, or those of the package django-tasks: what users import."""

try:
    from django.tasks import TaskContext, TaskResult, TaskResultStatus, task
    from django.tasks.exceptions import (
        InvalidTask,
        TaskResultDoesNotExist,
        TaskResultMismatch,
    )
    from django.tasks.signals import task_enqueued, task_finished, task_started
except ImportError:
    from django_tasks import TaskContext, TaskResult, TaskResultStatus, task
    from django_tasks.exceptions import (
        InvalidTaskError as InvalidTask,
        TaskResultDoesNotExist,
        TaskResultMismatch,
    )
    from django_tasks.signals import task_enqueued, task_finished, task_started

__all__ = [
    "InvalidTask",
    "TaskContext",
    "TaskResult",
    "TaskResultDoesNotExist",
    "TaskResultMismatch",
    "TaskResultStatus",
    "task",
    "task_enqueued",
    "task_finished",
    "task_started",
]
