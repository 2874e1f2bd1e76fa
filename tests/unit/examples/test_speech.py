"""Speech: two voices, speed and pauses as asked for, and WAV files of the right length."""

from __future__ import annotations

import io
import math
import tempfile
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from examples.convolab.composer import compose
from examples.convolab.espeak import Samples, SpeechError, espeak, short_path
from examples.convolab.model import (
    DEFAULT_SPEAKERS,
    Dialogue,
    Language,
    Line,
    Outline,
    Phrase,
    Speaker,
)
from examples.convolab.sources import source_text
from examples.convolab.speech import (
    NoReading,
    joined,
    load,
    pause_after,
    record,
    spoken,
    voice_of,
)


def dialogue_in(language: Language, length: int = 6) -> Dialogue:
    """Compose a short dialogue."""
    return compose(
        source_text("fox-and-grapes"),
        Outline(
            language=language,
            level="N5",
            length=length,
            variation_count=0,
            speakers=DEFAULT_SPEAKERS[language],
        ),
    )


def loudness(samples: Samples) -> float:
    """Return the root mean square of ``samples``."""
    return math.sqrt(sum(s * s for s in samples) / max(1, len(samples)))


def pitch(samples: Samples, rate: int) -> float:
    """Estimate the pitch in Hz from the autocorrelation of the loudest quarter of a second."""
    window = rate // 4
    starts = range(0, len(samples) - window, window // 2)
    at = max(starts, key=lambda start: loudness(samples[start : start + window]))
    piece = samples[at : at + window]

    def likeness(lag: int) -> int:
        return sum(piece[i] * piece[i + lag] for i in range(0, window - lag, 3))

    return rate / max(range(rate // 350, rate // 60), key=likeness)


@pytest.mark.parametrize("language", ["ja", "es", "de", "fr"])
def test_a_recording_is_a_wav_file_as_long_as_it_says(language: Language) -> None:
    """The WAV file has 16 bits, one channel, the track's length, and sound in it."""
    track = record(dialogue_in(language), speed=1.0, pause_mode="short")

    with wave.open(io.BytesIO(track.wav())) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        assert file.getnframes() / file.getframerate() == pytest.approx(track.seconds)

    assert 5 < track.seconds < 60
    assert loudness(track.samples) > 300


def test_each_line_is_heard_where_its_cue_says() -> None:
    """There is speech within the cues, and silence between them."""
    track = record(dialogue_in("de"), speed=1.0, pause_mode="short")
    rate = track.sample_rate

    for cue in track.cues:
        within = track.samples[round(cue.start * rate) : round(cue.end * rate)]
        after = track.samples[round(cue.end * rate) + 50 : round((cue.end + 0.5) * rate)]
        assert loudness(within) > 500
        assert loudness(after) == 0
    assert [cue.line for cue in track.cues] == list(range(6))


def test_two_speakers_have_different_voices() -> None:
    """The same words are said higher by the first speaker than by the second."""
    first, second = DEFAULT_SPEAKERS["es"]

    heard = [
        espeak().say(
            "Buenos días, hoy hace sol.", voice=voice_of(who, 0, "es"), words_per_minute=150
        )
        for who in (first, second)
    ]

    high, low = (pitch(samples, espeak().sample_rate) for samples in heard)
    assert high > low * 1.2


def test_speakers_without_a_voice_get_different_ones() -> None:
    """Four speakers whose payload names no voice have four."""
    voices = {voice_of(Speaker(name=str(place)), place, "fr") for place in range(4)}

    assert len(voices) == 4


def test_speed_changes_the_length_of_speech() -> None:
    """Twice the speed takes about half the time, and half of it about twice."""
    dialogue = dialogue_in("fr")

    def talking(speed: float) -> float:
        track = record(dialogue, speed=speed, pause_mode="none")
        return sum(cue.end - cue.start for cue in track.cues)

    slow, normal, fast = talking(0.6), talking(1.0), talking(1.8)
    assert slow > normal * 1.4
    assert fast < normal * 0.7


def test_pause_mode_changes_the_silence_and_not_the_speech() -> None:
    """Pauses are longest with "repeat", and hardly there with "none"."""
    dialogue = dialogue_in("es")

    tracks = [record(dialogue, speed=1.0, pause_mode=mode) for mode in ("none", "short", "repeat")]

    talking = [sum(cue.end - cue.start for cue in track.cues) for track in tracks]
    silence = [track.seconds - said for track, said in zip(tracks, talking, strict=True)]
    assert max(talking) < min(talking) * 1.1
    assert silence[0] < silence[1] < silence[2]


def test_a_pause_for_repeating_is_longer_than_the_line() -> None:
    """There is time to say the line again."""
    assert pause_after("repeat", 3.0) > 3.0


def test_japanese_is_said_by_its_reading() -> None:
    """Kanji become kana, and particles are spelled as they are said."""
    phrase = Phrase(
        text="今日は水へ行きます。", reading="きょう は みず へ いきます。", translation=""
    )

    assert spoken(Line(speaker=0, phrase=phrase), "ja") == "きょうわみずえいきます。"


def test_japanese_without_a_reading_is_an_error_that_names_the_line() -> None:
    """The library would say "Chinese letter" for each kanji, so a line without kana is refused."""
    phrase = Phrase(text="今日", translation="")

    with pytest.raises(NoReading, match="'今日' has no reading"):
        spoken(Line(speaker=0, phrase=phrase), "ja")


def test_an_unknown_voice_is_an_error_that_names_the_known_ones() -> None:
    """The library ignores a variant that it lacks, so it is looked for first."""
    with pytest.raises(SpeechError, match=r"no voice variant 'x9'.*m3"):
        espeak().say("Hallo", voice="de+x9", words_per_minute=150)
    with pytest.raises(SpeechError, match="no voice 'nowhere'"):
        espeak().say("Hallo", voice="nowhere", words_per_minute=150)


def test_nothing_to_say_is_an_error() -> None:
    """Text without a sound is refused instead of recorded as silence."""
    with pytest.raises(SpeechError, match="made no sound"):
        espeak().say("", voice="de", words_per_minute=150)


def test_threads_can_speak_at_once() -> None:
    """Eight threads get the length of speech that one alone gets."""
    text = "Der Hase und die Schildkröte laufen um die Wette."

    def length(_: int) -> int:
        return len(espeak().say(text, voice="de+f2", words_per_minute=150))

    alone = length(0)
    with ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(length, range(40)))

    assert all(length == pytest.approx(alone, rel=0.05) for length in lengths)


def test_tracks_are_joined_with_their_cues() -> None:
    """A lesson is as long as its parts and the gaps, and the cues move along."""
    first = record(dialogue_in("es", 2), speed=1.0, pause_mode="none")
    second = load(first.wav(), first.cues)

    lesson, starts = joined([first, second], gap=1.5)

    assert lesson.seconds == pytest.approx(2 * first.seconds + 1.5, abs=0.01)
    assert starts == [0, pytest.approx(first.seconds + 1.5, abs=0.01)]
    assert lesson.cues[2].start == pytest.approx(first.cues[0].start + starts[1], abs=0.01)
    assert lesson.cues[3].line == 1


def test_a_long_path_of_the_librarys_data_is_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library takes 160 bytes of path at most, so a longer one gets a short link."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    long = tmp_path / ("d" * 120) / ("e" * 60)
    long.mkdir(parents=True)
    (long / "phontab").write_text("here")

    found = short_path(long)

    assert len(str(found)) < len(str(long))
    assert (found / "phontab").read_text() == "here"
    assert short_path(tmp_path) == tmp_path
