"""Pictures: different from each other, in a typeface that has every character of the lessons."""

from __future__ import annotations

import io
from itertools import combinations, product

import pytest
from PIL import Image, ImageChops

from examples.convolab.cards import HEIGHT, WIDTH, cover, exchange_card, script_page
from examples.convolab.composer import compose
from examples.convolab.fonts import fit, font, has_glyph, line_height, missing, showable, wrap
from examples.convolab.icons import ICONS
from examples.convolab.model import (
    DEFAULT_SPEAKERS,
    Dialogue,
    Language,
    Level,
    Line,
    Outline,
    Phrase,
)
from examples.convolab.sources import nouns, source_ids, source_text

LANGUAGES: tuple[Language, ...] = ("ja", "es", "de", "fr")
LEVELS: tuple[Level, ...] = ("N5", "N4", "N3", "N2", "N1")


def dialogue_in(
    language: Language, level: Level = "N5", episode: str = "crow-and-pitcher"
) -> Dialogue:
    """Compose a dialogue."""
    return compose(
        source_text(episode),
        Outline(
            language=language,
            level=level,
            length=10,
            variation_count=3,
            speakers=DEFAULT_SPEAKERS[language],
        ),
    )


def opened(png: bytes) -> Image.Image:
    """Open a picture."""
    return Image.open(io.BytesIO(png)).convert("RGB")


def test_all_pictures_of_a_lesson_differ() -> None:
    """Cover, cards and pages are PNG files of one size, no two alike."""
    dialogue, source = dialogue_in("ja"), source_text("crow-and-pitcher")

    pictures = [
        opened(png)
        for png in (
            cover(dialogue, source),
            *(exchange_card(dialogue, number) for number in range(3)),
            script_page(source, 0),
        )
    ]

    assert {picture.size for picture in pictures} == {(WIDTH, HEIGHT)}
    for one, other in combinations(pictures, 2):
        assert ImageChops.difference(one, other).getbbox() is not None


def test_a_card_shows_the_words_of_its_exchange() -> None:
    """Another text in a bubble changes the picture there, and only there."""
    dialogue = dialogue_in("de")
    changed = Line(speaker=0, phrase=Phrase(text="Etwas anderes!", translation="Else!"))
    other = type(dialogue)(
        title=dialogue.title, language="de", level="N5", speakers=dialogue.speakers,
        lines=[changed, *dialogue.lines[1:]], words=[], source="x", made_by="x",
    )  # fmt: skip

    difference = ImageChops.difference(
        opened(exchange_card(dialogue, 0)), opened(exchange_card(other, 0))
    )

    box = difference.crop((0, 262, WIDTH, HEIGHT)).getbbox()
    assert box is not None
    assert box[3] < 250


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_character_of_any_lesson_is_an_empty_box(language: Language) -> None:
    """The typeface has every character of every phrase, in every language and at every level."""
    said = "".join(
        phrase.text + (phrase.reading or "") + phrase.translation
        for level, episode in product(LEVELS, source_ids())
        for line in dialogue_in(language, level, episode).lines
        for phrase in (line.phrase, *line.variations)
    )
    titles = "".join(source_text(episode).title[language][0] for episode in source_ids())

    assert missing(said + titles) == []


def test_missing_characters_are_noticed_and_left_out() -> None:
    """A character without a glyph is named, and not shown as a box."""
    assert has_glyph("狐")
    assert missing("fox 🦊 한") == ["한", "🦊"]
    assert showable("fox 🦊!") == "fox !"


def test_lines_break_as_their_script_does() -> None:
    """Latin words stay whole; Japanese breaks anywhere but before a full stop."""
    latin = wrap("La liebre y la tortuga corren", 40, 300)
    japanese = wrap("ウサギはゆっくり歩きます。", 40, 480)

    assert " ".join(latin) == "La liebre y la tortuga corren"
    assert len(latin) > 1
    assert japanese == ["ウサギはゆっくり歩きま", "す。"]
    assert all(font(40).getlength(line) <= 480 for line in japanese)


@pytest.mark.parametrize("text", ["短い。", "Ein recht langer Satz. " * 12, "", "ながい" * 80])
def test_text_is_fitted_into_its_box(text: str) -> None:
    """Text gets smaller until it fits, and is cut at the smallest size."""
    size, lines = fit(text, 500, 200, range(46, 20, -2))

    assert lines
    assert len(lines) * line_height(size) <= 200
    assert all(font(size).getlength(line) <= 500 for line in lines)


def test_every_noun_of_the_lexicon_has_its_drawing() -> None:
    """A card can show whatever the lexicon knows."""
    assert set(nouns()) <= set(ICONS)
