"""Settings of a Django project with two task backends on one Redis; TEST_* come from the test."""

import importlib.util
import os

from convolab_worker import Exponential

SECRET_KEY = "of a test"
USE_TZ = True
HAS_TASKS = importlib.util.find_spec("django.tasks") is not None
INSTALLED_APPS = [
    "convolab_worker.integrations.django",
    *([] if HAS_TASKS else ["django_tasks"]),
    "shop",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("TEST_DATABASE", ":memory:"),
        "CONN_MAX_AGE": 0,
    }
}
QUEUE = os.environ.get("TEST_QUEUE", "shop")
_OPTIONS = {
    "redis_url": os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:1"),
    "queues": (QUEUE,),
}
_BACKEND = "convolab_worker.integrations.django.BullMQBackend"
TASKS = {
    "default": {
        "BACKEND": _BACKEND,
        "QUEUES": ["default", f"{QUEUE}-emails"],
        "OPTIONS": _OPTIONS,
    },
    "careful": {
        "BACKEND": _BACKEND,
        "OPTIONS": {
            **_OPTIONS,
            "attempts": 2,
            "backoff": Exponential(0.02),
            "enqueue_on_commit": True,
        },
    },
}
