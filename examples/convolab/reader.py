"""What happens in a source text: which known nouns it has, and who does what.

No parser: the nouns and verbs of the lexicon are looked for in order, the nearest character before
a verb is its subject, and the next thing after it (or what "it" and "them" stand for) its object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from examples.convolab.sources import Noun, Verb, nouns, verbs


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that the text says: ``subject`` does ``verb``, to ``thing`` if it takes one."""

    subject: Noun
    verb: Verb
    thing: Noun | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in a text, each in order of its first appearance."""

    characters: tuple[Noun, ...]
    things: tuple[Noun, ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class _Mention:
    """A noun at its place in the text."""

    at: int
    noun: Noun


def read(text: str) -> Reading:
    """Return the characters, the things and the claims of ``text``."""
    mentions = _mentions(text)
    return Reading(
        characters=_first_mentions(mentions, characters=True),
        things=_first_mentions(mentions, characters=False),
        claims=tuple(_claims(text, mentions)),
    )


def topics(text: str) -> list[str]:
    """Return the ids of the lexicon's nouns that ``text`` speaks of, in any case, in order."""
    found: dict[str, int] = {}
    for noun in nouns().values():
        at = [hit.start() for form in noun.forms for hit in _matches(form, text, exact=False)]
        if at:
            found[noun.id] = min(at)
    return sorted(found, key=lambda noun_id: found[noun_id])


def _matches(form: str, text: str, *, exact: bool) -> list[re.Match[str]]:
    pattern = rf"\b{re.escape(form)}s?\b"
    return list(re.finditer(pattern, text, 0 if exact else re.IGNORECASE))


def _mentions(text: str) -> list[_Mention]:
    """Find the nouns; characters only with their capital, as fables print them."""
    found = [
        _Mention(hit.start(), noun)
        for noun in nouns().values()
        for form in noun.forms
        for hit in _matches(form, text, exact=noun.character)
    ]
    return sorted(found, key=lambda mention: mention.at)


def _first_mentions(mentions: list[_Mention], *, characters: bool) -> tuple[Noun, ...]:
    seen: dict[str, Noun] = {}
    for mention in mentions:
        if mention.noun.character is characters:
            seen.setdefault(mention.noun.id, mention.noun)
    return tuple(seen.values())


def _claims(text: str, mentions: list[_Mention]) -> list[Claim]:
    hits = sorted(
        ((hit.start(), hit.end(), verb) for verb in verbs() for hit in _verb_matches(verb, text)),
        key=lambda hit: hit[0],
    )
    claims: list[Claim] = []
    for start, end, verb in hits:
        claim = _claim(text, mentions, start, end, verb)
        if claim is not None and claim not in claims:
            claims.append(claim)
    return claims


def _verb_matches(verb: Verb, text: str) -> list[re.Match[str]]:
    return [hit for form in verb.when for hit in re.finditer(rf"\b{re.escape(form)}\b", text)]


def _claim(text: str, mentions: list[_Mention], start: int, end: int, verb: Verb) -> Claim | None:
    """Make a claim of the verb at ``start``; None where subject or object isn't clear."""
    subjects = [m.noun for m in mentions if m.noun.character and m.at < start]
    if not subjects:
        return None
    if not verb.takes_object:
        return Claim(subjects[-1], verb)
    if re.match(r"\s+(it|them)\b", text[end:]):
        before = [m.noun for m in mentions if not m.noun.character and m.at < start]
        return Claim(subjects[-1], verb, before[-1]) if before else None
    after = [m.noun for m in mentions if m.at >= end]
    if not after or after[0].character:
        return None
    return Claim(subjects[-1], verb, after[0])
