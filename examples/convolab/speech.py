"""A dialogue as sound: who speaks in which voice, how fast, with which pauses; WAV files."""

from __future__ import annotations

import io
import re
import wave
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from examples.convolab.espeak import Samples, espeak
from examples.convolab.model import Cue, Dialogue, Language, Line, PauseMode, Speaker

WORDS_PER_MINUTE = 150
"""The rate of speed 1.0."""

_VOICES: dict[Language, str] = {"ja": "ja", "es": "es", "de": "de", "fr": "fr"}
_VARIANTS = ("f2", "m3", "f4", "m7")
_PITCH = {"f": 55, "m": 42}
_LEAD_IN, _TAIL = 0.4, 0.8
_KANJI = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_SPOKEN_AS = {"は": "わ", "へ": "え", "を": "お", "には": "にわ", "では": "でわ", "とは": "とわ"}
"""Particles that are written one way and said another."""


class NoReading(ValueError):
    """A Japanese line has kanji and no reading: the speech library can't say kanji."""


@dataclass(frozen=True, slots=True)
class Track:
    """Sound, and when each line of a dialogue is heard in it."""

    samples: Samples
    sample_rate: int
    cues: list[Cue]

    @property
    def seconds(self) -> float:
        """The length of the sound."""
        return len(self.samples) / self.sample_rate

    def wav(self) -> bytes:
        """Return the sound as a WAV file, 16 bits, one channel."""
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(self.sample_rate)
            out.writeframes(self.samples.tobytes())
        return file.getvalue()


def voice_of(speaker: Speaker, place: int, language: Language) -> str:
    """Return the voice of the speaker at ``place`` among a dialogue's speakers."""
    variant = speaker.voice or _VARIANTS[place % len(_VARIANTS)]
    return f"{_VOICES[language]}+{variant}"


def spoken(line: Line, language: Language) -> str:
    """Return what the speech library is to say for ``line``: kana, for Japanese.

    NoReading when that still has kanji in it.
    """
    phrase = line.phrase
    if language != "ja":
        return phrase.text
    text = _as_said(phrase.reading or phrase.text)
    if _KANJI.search(text):
        msg = f"the Japanese line {phrase.text!r} has no reading in kana: expected `reading`"
        raise NoReading(msg)
    return text


def pause_after(mode: PauseMode, line_seconds: float) -> float:
    """Return the silence after a line, in seconds; "repeat" leaves time to say it again."""
    if mode == "repeat":
        return 0.6 + 1.25 * line_seconds
    return 0.05 if mode == "none" else 0.6


def record(
    dialogue: Dialogue,
    *,
    speed: float,
    pause_mode: PauseMode,
    on_line: Callable[[int], None] = lambda _spoken: None,
) -> Track:
    """Speak ``dialogue``; ``speed`` 1.0 is normal. Calls ``on_line`` after each line.

    NoReading for a Japanese line that can't be said, SpeechError from the speech library.
    """
    rate = espeak().sample_rate
    samples = _silence(_LEAD_IN, rate)
    cues: list[Cue] = []
    for number, line in enumerate(dialogue.lines):
        said = _speak(line, dialogue, speed)
        start = len(samples) / rate
        samples += said
        cues.append(Cue(line=number, start=round(start, 3), end=round(len(samples) / rate, 3)))
        last = number == len(dialogue.lines) - 1
        pause = _TAIL if last else pause_after(pause_mode, len(said) / rate)
        samples += _silence(pause, rate)
        on_line(number + 1)
    return Track(samples, rate, cues)


def joined(tracks: Sequence[Track], *, gap: float) -> tuple[Track, list[float]]:
    """Put ``tracks`` one after another, ``gap`` seconds apart; also return when each starts."""
    rate = tracks[0].sample_rate
    samples: Samples = array("h")
    cues: list[Cue] = []
    starts: list[float] = []
    for track in tracks:
        if track.sample_rate != rate:
            msg = f"a track has {track.sample_rate} samples a second: expected {rate}"
            raise ValueError(msg)
        if starts:
            samples += _silence(gap, rate)
        at = round(len(samples) / rate, 3)
        starts.append(at)
        cues += [Cue(line=c.line, start=c.start + at, end=c.end + at) for c in track.cues]
        samples += track.samples
    return Track(samples, rate, cues), starts


def load(wav: bytes, cues: list[Cue]) -> Track:
    """Read a WAV file of 16 bits and one channel; ValueError for anything else."""
    with wave.open(io.BytesIO(wav), "rb") as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, 2):
            msg = "expected a WAV file of 16 bits and one channel"
            raise ValueError(msg)
        samples: Samples = array("h", file.readframes(file.getnframes()))
        return Track(samples, file.getframerate(), cues)


def _speak(line: Line, dialogue: Dialogue, speed: float) -> Samples:
    """Return one line's sound, without the silence that the library puts around it."""
    speaker = dialogue.speakers[line.speaker]
    voice = voice_of(speaker, line.speaker, dialogue.language)
    samples = espeak().say(
        spoken(line, dialogue.language),
        voice=voice,
        words_per_minute=round(WORDS_PER_MINUTE * speed),
        pitch=_PITCH.get(voice.partition("+")[2][:1], 50),
    )
    return _trimmed(samples)


def _trimmed(samples: Samples, threshold: int = 60) -> Samples:
    """Cut the near silence off both ends."""
    loud = [at for at, sample in enumerate(samples) if abs(sample) > threshold]
    return samples[loud[0] : loud[-1] + 1] if loud else samples


def _silence(seconds: float, rate: int) -> Samples:
    return array("h", bytes(2 * round(seconds * rate)))


def _as_said(reading: str) -> str:
    """Turn a reading with spaces between its words into what is said.

    Particles are respelled, then the spaces go, since the library stresses every word.
    """
    respelled = reading.replace("こんにちは", "こんにちわ").replace("こんばんは", "こんばんわ")
    pieces = re.split(r"([\s、。？！「」]+)", respelled)
    return "".join(_SPOKEN_AS.get(piece, piece.strip(" ")) for piece in pieces)
