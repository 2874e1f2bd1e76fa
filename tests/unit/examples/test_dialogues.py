"""Dialogues: read from the text, of the length and level asked for, in four languages."""

from __future__ import annotations

import json
import re
from itertools import pairwise, product
from typing import Any

import pytest

from examples.convolab import written
from examples.convolab.composer import compose, say_claim
from examples.convolab.model import DEFAULT_SPEAKERS, Dialogue, Language, Level, Outline, Speaker
from examples.convolab.reader import read, topics
from examples.convolab.sources import source_ids, source_text

LANGUAGES: tuple[Language, ...] = ("ja", "es", "de", "fr")
LEVELS: tuple[Level, ...] = ("N5", "N4", "N3", "N2", "N1")


def composed(
    language: Language = "ja",
    level: Level = "N5",
    length: int = 12,
    variation_count: int = 2,
    episode: str = "hare-and-tortoise",
) -> Dialogue:
    """Compose a dialogue with the usual speakers."""
    return compose(
        source_text(episode),
        Outline(
            language=language,
            level=level,
            length=length,
            variation_count=variation_count,
            speakers=DEFAULT_SPEAKERS[language],
        ),
    )


@pytest.mark.parametrize(("language", "level"), list(product(LANGUAGES, LEVELS)))
@pytest.mark.parametrize("episode", source_ids())
def test_every_text_gives_a_dialogue_in_every_language_at_every_level(
    language: Language, level: Level, episode: str
) -> None:
    """Every slot is filled, every line says something, and no two variations are alike."""
    dialogue = composed(language, level, 10, 3, episode)

    phrases = [p for line in dialogue.lines for p in (line.phrase, *line.variations)]

    assert len(dialogue.lines) == 10
    for phrase in phrases:
        assert phrase.text.strip()
        assert phrase.translation.strip()
        assert not re.search(r"[{}]", f"{phrase.text}{phrase.reading}{phrase.translation}")
        assert bool(phrase.reading) == (language == "ja")
    for line in dialogue.lines:
        assert len({line.phrase.text, *(p.text for p in line.variations)}) == 4


@pytest.mark.parametrize("length", [2, 3, 4, 7, 12, 20, 30])
def test_a_dialogue_has_the_length_that_was_asked_for(length: int) -> None:
    """The number of lines is ``dialogueLength``, and it begins and ends as talk does."""
    dialogue = composed("es", "N4", length)

    assert len(dialogue.lines) == length
    assert dialogue.lines[0].phrase.text.startswith("Hola")
    assert "Hasta mañana" in dialogue.lines[-1].phrase.text or length < 4


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_each_line_has_the_variations_that_were_asked_for(count: int) -> None:
    """Every line has ``variationCount`` other ways to say it."""
    dialogue = composed("fr", "N2", 14, count)

    assert {len(line.variations) for line in dialogue.lines} == {count}


@pytest.mark.parametrize("language", LANGUAGES)
def test_harder_levels_are_said_at_greater_length(language: Language) -> None:
    """Each level differs from the next, and N3 is longer than N5, N1 than N3."""
    said = {
        level: [line.phrase.text for line in composed(language, level).lines] for level in LEVELS
    }
    length = {level: sum(map(len, lines)) for level, lines in said.items()}

    assert all(said[easier] != said[harder] for easier, harder in pairwise(LEVELS))
    assert length["N5"] < length["N3"] < length["N1"]


def test_the_easiest_level_has_no_phrase_of_a_harder_one() -> None:
    """Nothing that is only said at N3 or N1 is said at N5, in a variation either."""
    easy = composed("de", "N5", 10, 3)
    said = " ".join(p.text for line in easy.lines for p in (line.phrase, *line.variations))

    for harder in ("meiner Ansicht nach", "Am wichtigsten ist", "deiner Meinung nach", "ob du"):
        assert harder not in said


def test_speakers_take_turns_and_call_each_other_by_name() -> None:
    """The speakers of the payload speak in turn, and the first greets the second."""
    speakers = [Speaker(name="Ana"), Speaker(name="Luis"), Speaker(name="Eva")]

    dialogue = compose(
        source_text("crow-and-pitcher"),
        Outline(
            language="es",
            level="N5",
            length=7,
            variation_count=0,
            speakers=speakers,
        ),
    )

    assert [line.speaker for line in dialogue.lines] == [0, 1, 2, 0, 1, 2, 0]
    assert "Luis" in dialogue.lines[0].phrase.text
    assert "Luis" in dialogue.lines[0].phrase.translation


def test_a_dialogue_says_what_happens_in_its_text() -> None:
    """What is said comes from the source text, in the order in which it happens there."""
    dialogue = composed("de", "N5", 12, 0, "crow-and-pitcher")
    said = " ".join(line.phrase.text for line in dialogue.lines)

    assert said.index("Der Rabe hat Durst") < said.index("Danach: Der Rabe")
    assert "Krug" in said


def test_a_text_with_too_little_in_it_is_an_error_that_says_how_much_it_gives() -> None:
    """More lines than the text has matter for are refused, with the number that it gives."""
    with pytest.raises(ValueError, match=r"asks for 20 exchanges.*at most 10.* at N5"):
        composed("ja", "N5", 40, 0, "fox-and-grapes")


def test_too_many_variations_are_an_error() -> None:
    """More variations than there are phrases for are refused."""
    with pytest.raises(ValueError, match="expected 0 to 3"):
        composed(variation_count=4)


def test_claims_have_the_right_subject_and_object() -> None:
    """The reader finds who does what: through pronouns, and not where the text says "not"."""
    reading = read(source_text("crow-and-pitcher").text)

    claims = [say_claim(claim, "en")[0] for claim in reading.claims]

    assert claims == [
        "the crow is thirsty",
        "the crow sees the pitcher",
        "the crow flies",
        "the crow tries hard",
        "the crow collects the stones",
        "the crow drops the stones",
        "the crow is saved",
    ]


def test_a_comparison_is_no_character() -> None:
    """The words "swift as the wind" bring no wind into the story: characters have capitals."""
    reading = read(source_text("hare-and-tortoise").text)

    assert [noun.id for noun in reading.characters] == ["hare", "tortoise", "fox"]


def test_german_has_its_cases() -> None:
    """An object is in the accusative."""
    claim = read("A Crow saw a pitcher.").claims[0]

    assert say_claim(claim, "de")[0] == "der Rabe sieht den Krug"


def test_a_text_without_known_words_is_an_error() -> None:
    """A text in which the lexicon's words don't occur can't be talked about."""
    source = source_text("fox-and-grapes")
    strange = type(source)(
        id="x", text="Nothing here.", author="", translator="", title=source.title,
        moral=source.moral,
    )  # fmt: skip

    with pytest.raises(ValueError, match="nothing happen"):
        compose(
            strange,
            Outline(
                language="ja",
                level="N5",
                length=4,
                variation_count=0,
                speakers=DEFAULT_SPEAKERS["ja"],
            ),
        )


def test_topics_come_in_the_order_of_the_sentence() -> None:
    """Nouns of a sentence are found in any case, plurals too."""
    assert topics("The tortoise and the hares run.") == ["tortoise", "hare"]


def test_an_unknown_text_is_an_error_that_names_the_known_ones() -> None:
    """An episode that there is not is refused with those that there are."""
    with pytest.raises(LookupError, match="'moby-dick'.*crow-and-pitcher"):
        source_text("moby-dick")


def answer(**changes: Any) -> str:
    """What a language model might answer, with ``changes``."""
    other = {"text": "ねこ。", "translation": "Cat.", "reading": "ねこ。"}
    line = {"text": "ねこです。", "translation": "A cat.", "reading": "ねこ です。"}
    line_and_more = {**line, "variations": [other]}
    title = {"text": "ねこ", "translation": "Cat", "reading": "ねこ"}
    return json.dumps({"title": title, "lines": [line_and_more] * 2, **changes})


def parsed(text: str) -> Dialogue:
    """Parse an answer as that of a model called writer."""
    return written.parse(
        text,
        source_text("fox-and-grapes"),
        Outline(
            language="ja",
            level="N5",
            length=2,
            variation_count=1,
            speakers=DEFAULT_SPEAKERS["ja"],
        ),
        made_by="writer",
    )


def test_a_models_answer_becomes_a_dialogue() -> None:
    """An answer that is what was asked for is taken over, and names its maker."""
    dialogue = parsed(answer())

    assert dialogue.made_by == "writer"
    assert [line.speaker for line in dialogue.lines] == [0, 1]
    assert dialogue.lines[0].variations[0].reading == "ねこ。"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not JSON", "gave no dialogue"),
        (answer(lines=[]), "wrote 0 lines: expected 2"),
        (answer(title="x"), r"\$.title"),
        (answer(lines=[{"text": "x", "translation": "x"}] * 2), "0 variations: expected 1"),
        (answer(lines=[{"text": "x", "translation": "x", "variations": [
            {"text": "y", "translation": "y"}]}] * 2), r"lines\[0\].reading is empty"),
    ],
)  # fmt: skip
def test_a_models_answer_that_will_not_do_is_an_error_that_says_why(text: str, reason: str) -> None:
    """What the model got wrong is named, so that the failed attempt's reason tells."""
    with pytest.raises(written.BadAnswer, match=reason):
        parsed(text)


def test_a_model_is_asked_for_what_the_payload_says() -> None:
    """Level, length, variations and speakers are in the instructions, the text in the task."""
    rules, task = written.messages(
        source_text("fox-and-grapes"),
        Outline(
            language="es",
            level="N3",
            length=7,
            variation_count=2,
            speakers=DEFAULT_SPEAKERS["es"],
        ),
    )

    for wanted in ("Spanish", "CEFR B1", "Exactly 7 lines", "Exactly 2 variations", "Lucía, Mateo"):
        assert wanted in rules["content"]
    assert "clusters of ripe black grapes" in task["content"]
