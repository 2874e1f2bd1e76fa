"""The example application: ``--app examples.convolab.app:handlers``."""

from __future__ import annotations

from convolab_worker import HandlerRegistry
from examples.convolab.handlers import audio, course, dialogue, image

handlers = HandlerRegistry()
for kind in (dialogue, audio, image, course):
    handlers.include(kind.handlers)
