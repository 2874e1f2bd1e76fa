"""The eSpeak NG library, called through ctypes: text in, samples out.

The library keeps its state in globals, so one lock serialises all calls. It takes a few
milliseconds for a sentence, but it is C code that holds its thread: don't call it on an event loop.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from array import array
from functools import cache
from pathlib import Path
from typing import TypeAlias

import espeakng_loader

_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_RATE, _PITCH = 1, 3
_CHARS_UTF8 = 1
_OK = 0
_PATH_MOST = 150
"""The library copies the path of its data into 160 bytes and exits or misbehaves beyond."""

SLOWEST, FASTEST = 80, 450
"""The range of speaking rates in words a minute."""

Samples: TypeAlias = "array[int]"
"""Signed 16-bit samples, one channel."""

_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class SpeechError(Exception):
    """The speech library can't be loaded, has no such voice, or refuses a text."""


class Espeak:
    """The library, initialised. There is one for the process: see :func:`espeak`."""

    def __init__(self) -> None:
        """Load the library and its voices; SpeechError says why that fails."""
        self._lock = threading.Lock()
        self._heard = bytearray()
        try:
            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            msg = f"the speech library can't be loaded: {error}"
            raise SpeechError(msg) from error
        self._library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int,
            ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        data = short_path(Path(espeakng_loader.get_data_path()))
        self.sample_rate: int = self._library.espeak_Initialize(
            _OUTPUT_SYNCHRONOUS, 0, os.fsencode(data), _INITIALIZE_DONT_EXIT
        )
        if self.sample_rate <= 0:
            msg = f"the speech library found no voices in {data}"
            raise SpeechError(msg)
        self._callback = _SynthCallback(self._hear)  # kept: C holds no reference to it
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, *, voice: str, words_per_minute: int, pitch: int = 50) -> Samples:
        """Return ``text`` spoken in ``voice`` ("de+f2": a language and a variant).

        ``pitch`` is 0 to 99. SpeechError for a voice that there is not, and for text that the
        library makes no sound of.
        """
        rate = max(SLOWEST, min(FASTEST, words_per_minute))
        encoded = text.encode() + b"\0"
        with self._lock:
            self._heard.clear()
            self._choose(voice)
            self._library.espeak_SetParameter(_RATE, rate, 0)
            self._library.espeak_SetParameter(_PITCH, pitch, 0)
            failed = self._library.espeak_Synth(
                encoded, len(encoded), 0, 0, 0, _CHARS_UTF8, None, None
            )
            samples: Samples = array("h", bytes(self._heard))
        if failed != _OK or not any(samples):
            msg = f"the speech library made no sound of {text!r} (status {failed})"
            raise SpeechError(msg)
        return samples

    def _choose(self, voice: str) -> None:
        """Set the voice; the library ignores a variant that it lacks, so look for it first."""
        variant = voice.partition("+")[2]
        variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
        known = {path.name for path in variants.iterdir()}
        if variant and variant not in known:
            msg = f"no voice variant {variant!r}: expected one of {', '.join(sorted(known))}"
            raise SpeechError(msg)
        if self._library.espeak_SetVoiceByName(voice.encode()) != _OK:
            msg = f"no voice {voice!r} in the speech library"
            raise SpeechError(msg)

    def _hear(self, samples: object, count: int, _events: object) -> int:
        """Take samples from the library, which calls this while it speaks."""
        if samples and count > 0:
            self._heard += ctypes.string_at(samples, count * 2)  # type: ignore[arg-type]
        return 0


_loading = threading.Lock()


def espeak() -> Espeak:
    """Return the process's library, loaded on first use.

    Two threads that load it at once crash the process, so one of them waits.
    """
    with _loading:
        return _loaded()


@cache
def _loaded() -> Espeak:
    return Espeak()


def short_path(path: Path) -> Path:
    """Return ``path``, or a short link to it where it is too long for the library."""
    if len(os.fsencode(path)) <= _PATH_MOST:
        return path
    link = Path(tempfile.mkdtemp(prefix="espeak-")) / "espeak-ng-data"
    link.symlink_to(path, target_is_directory=True)
    return link
