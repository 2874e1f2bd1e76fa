"""``generate-audio`` on ``audio-generation``: a dialogue as speech.

A plain function: the worker runs it in a thread, where the speech library may take its time.
"""

from __future__ import annotations

from convolab_worker import HandlerRegistry, Job, errors
from examples.convolab.espeak import SpeechError
from examples.convolab.jobs import GENERATE_AUDIO
from examples.convolab.payloads import AudioRequest, AudioResult
from examples.convolab.speech import NoReading, record
from examples.convolab.store import Store

handlers = HandlerRegistry()

SLOWEST, FASTEST = 0.5, 2.0


class Stopped(Exception):
    """The worker asked the handler to stop: it timed out, or the worker is shutting down."""


@handlers.audio(GENERATE_AUDIO, timeout=300, concurrency=2)
def generate_audio(job: Job[AudioRequest]) -> AudioResult:
    """Speak a dialogue that was saved, and save the recording."""
    request = job.data
    if not SLOWEST <= request.speed <= FASTEST:
        msg = f"speed is {request.speed}: expected {SLOWEST} to {FASTEST}"
        raise errors.UnrecoverableError(msg)
    store = Store.from_env()
    try:
        dialogue = store.dialogue(request.dialogueId)
        store.path(request.track)  # the track's name becomes a file's
    except (LookupError, ValueError) as error:
        raise errors.UnrecoverableError(str(error)) from error
    job.progress(10)

    def on_line(spoken: int) -> None:
        if job.cancelled.is_set():
            msg = f"stopped after {spoken} of {len(dialogue.lines)} lines"
            raise Stopped(msg)
        job.progress(10 + round(80 * spoken / len(dialogue.lines)))

    try:
        track = record(dialogue, speed=request.speed, pause_mode=request.pauseMode, on_line=on_line)
    except (NoReading, SpeechError) as error:
        raise errors.UnrecoverableError(str(error)) from error
    file = store.write(request.dialogueId, f"audio/{request.track}.wav", track.wav())
    job.log.info("audio.made", seconds=round(track.seconds, 1), speed=request.speed)
    job.progress(100)
    return {
        "file": file,
        "seconds": round(track.seconds, 3),
        "cues": track.cues,
    }
