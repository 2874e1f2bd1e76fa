"""The source texts that come with the example, and the words and phrases to talk about them."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from examples.convolab.model import Language

HERE = Path(__file__).parent

Said = tuple[str, str | None]
"""What is shown, and its reading in kana where it has one."""


class SourceText(msgspec.Struct, frozen=True, kw_only=True):
    """A text that dialogues are about; ``title`` and ``moral`` by language, English included."""

    id: str
    text: str
    author: str
    translator: str
    title: dict[str, Said]
    moral: dict[str, Said]

    def sentences(self) -> list[str]:
        """Return the text's sentences, for pictures that show one each."""
        ended = self.text.replace("; ", ";\n").replace(". ", ".\n").replace('." ', '."\n')
        return [sentence.strip() for sentence in ended.splitlines() if sentence.strip()]


class Noun(msgspec.Struct, frozen=True, kw_only=True):
    """A noun of the lexicon: English forms to look for, and its forms by language."""

    id: str
    forms: tuple[str, ...]
    character: bool
    words: dict[str, dict[str, Said]]

    def form(self, language: str, form: str) -> Said:
        """Return ``form`` ("a", "the", "a_acc", "the_acc"), or what stands in for it."""
        forms = self.words[language]
        for name in (form, form.removesuffix("_acc"), "a"):
            if name in forms:
                return forms[name]
        raise KeyError(form)


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """What the source text must say (``when``), and how to say it by language."""

    when: tuple[str, ...]
    words: dict[str, Said]

    @property
    def takes_object(self) -> bool:
        """Say whether the verb needs an object to make sense."""
        return "{o}" in self.words["en"][0]


def _said(value: str | list[str]) -> Said:
    """Read a table's entry: a string, or a pair of what is shown and its reading."""
    return (value, None) if isinstance(value, str) else (value[0], value[1])


def _table(name: str) -> dict[str, Any]:
    with (HERE / name).open("rb") as file:
        return tomllib.load(file)


LANGUAGES: tuple[Language | str, ...] = ("en", "es", "de", "fr", "ja")


@cache
def source_ids() -> tuple[str, ...]:
    """Return the ids of the texts that there are."""
    return tuple(_table("texts/catalog.toml"))


@cache
def source_text(episode_id: str) -> SourceText:
    """Return the source text called ``episode_id``; LookupError names those that there are."""
    entry = _table("texts/catalog.toml").get(episode_id)
    if entry is None:
        msg = f"no source text {episode_id!r}: expected one of {', '.join(source_ids())}"
        raise LookupError(msg)
    return SourceText(
        id=episode_id,
        text=(HERE / "texts" / f"{episode_id}.txt").read_text(encoding="utf-8").strip(),
        author=entry["author"],
        translator=entry["translator"],
        title={language: _said(entry["title"][language]) for language in LANGUAGES},
        moral={language: _said(entry["moral"][language]) for language in LANGUAGES},
    )


@cache
def nouns() -> dict[str, Noun]:
    """Return the lexicon's nouns by id."""
    return {
        entry["id"]: Noun(
            id=entry["id"],
            forms=tuple(entry["forms"]),
            character=entry.get("character", False),
            words={
                language: {form: _said(value) for form, value in entry[language].items()}
                for language in LANGUAGES
            },
        )
        for entry in _table("lexicon.toml")["noun"]
    }


@cache
def verbs() -> tuple[Verb, ...]:
    """Return the lexicon's verbs; Japanese has its plain form under "ja_plain"."""
    return tuple(
        Verb(
            when=tuple(entry["when"]),
            words={language: _said(entry[language]) for language in (*LANGUAGES, "ja_plain")},
        )
        for entry in _table("lexicon.toml")["verb"]
    )


@cache
def phrases(use: str, tier: int) -> dict[str, Said]:
    """Return the phrase for ``use`` ("open.ask") at ``tier`` (1 to 3), by language."""
    for entry in _table_of_phrases()["phrase"]:
        if entry["use"] == use and entry["tier"] == tier:
            return {language: _said(entry[language]) for language in LANGUAGES}
    msg = f"phrases.toml has no phrase for {use!r} at tier {tier}"
    raise LookupError(msg)


@cache
def leads(group: str) -> tuple[dict[str, Said], ...]:
    """Return the words that may stand before a phrase, by language, the usual ones first."""
    return tuple(
        {language: _said(entry[language]) for language in LANGUAGES}
        for entry in _table_of_phrases()["lead"]
        if entry["group"] == group
    )


@cache
def _table_of_phrases() -> dict[str, Any]:
    return _table("phrases.toml")
