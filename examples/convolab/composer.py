"""Composes a dialogue about a source text from phrase data, offline.

It is not a language model: two learners greet each other, say what happens in the story as far as
the lexicon's words occur in it, and say goodbye, in phrases written for the level.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from examples.convolab.model import Dialogue, Language, Level, Line, Outline, Phrase, Speaker, Word
from examples.convolab.reader import Claim, Reading, read
from examples.convolab.sources import Noun, Said, SourceText, leads, phrases

TIER: dict[Level, int] = {"N5": 1, "N4": 1, "N3": 2, "N2": 2, "N1": 3}
"""How hard a phrase may be at a level."""

TALKATIVE: frozenset[Level] = frozenset({"N4", "N2"})
"""Levels that share a tier with an easier one: their lines have words before them."""

MOST_VARIATIONS = 3
_LEAD_GROUPS = {"open.ask": "greet", "close.ask": "thanks", "close.reply": "welcome"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """What two lines are about: ``use`` names the phrases, the rest fills their slots."""

    use: str
    noun: Noun | None = None
    claim: Claim | None = None


def compose(source: SourceText, outline: Outline) -> Dialogue:
    """Return the dialogue that was outlined.

    ValueError when the text has too little in it for that many lines, or when more variations are
    asked for than there are.
    """
    level, language, speakers = outline.level, outline.language, outline.speakers
    if not 0 <= outline.variation_count <= MOST_VARIATIONS:
        msg = f"variationCount is {outline.variation_count}: expected 0 to {MOST_VARIATIONS}"
        raise ValueError(msg)
    reading = read(source.text)
    plan = _plan(reading, (outline.length + 1) // 2, level)
    lines: list[Line] = []
    for exchange in plan:
        for side in ("ask", "reply"):
            turn = len(lines)
            other = speakers[(turn + 1) % len(speakers)]
            fill = _filler(exchange, source, other)
            ways = _ways(f"{exchange.use}.{side}", level, fill, language, turn)
            lines.append(
                Line(
                    speaker=turn % len(speakers),
                    phrase=ways[0],
                    variations=ways[1 : 1 + outline.variation_count],
                )
            )
    return Dialogue(
        title=_phrase(lambda key: source.title[key.removesuffix("_plain")], language),
        language=language,
        level=level,
        speakers=speakers,
        lines=lines[: outline.length],
        words=words(reading, language),
        source=source.id,
        made_by="phrase composer",
    )


def words(reading: Reading, language: Language) -> list[Word]:
    """Return the nouns of a text as words to learn."""
    found = []
    for noun in (*reading.characters, *reading.things):
        text, kana = noun.form(language, "the")
        found.append(Word(text=text, reading=kana, meaning=noun.form("en", "the")[0]))
    return found


def _plan(reading: Reading, count: int, level: Level) -> list[Exchange]:
    """Choose ``count`` exchanges, what a dialogue needs most first, in a story's order."""
    if not reading.claims:
        msg = "the source text has nothing happen in it in words that the lexicon knows"
        raise ValueError(msg)
    needed = ["open", "close", "act", "who", "next", "moral", "opinion"]
    needed += ["next"] * (len(reading.claims) - 2)
    needed += ["recap"] * len(reading.things)
    needed += ["opinion"] * (len(reading.characters) - 1)
    if level == "N5":
        needed.remove("moral")  # proverbs are not for the first weeks
    if len(reading.claims) == 1:
        needed.remove("next")
    if count > len(needed):
        msg = (
            f"dialogueLength asks for {count} exchanges of two lines: expected at most"
            f" {len(needed)}, since the source text has no more in it at {level}"
        )
        raise ValueError(msg)
    share = Counter(needed[:count])
    told = _spread(reading.claims, share["act"] + share["next"])
    by_use = {
        "open": [Exchange("open")],
        "who": [Exchange("who", noun=reading.claims[0].subject)],
        "act": [Exchange("act", claim=claim) for claim in told[:1]],
        "next": [Exchange("next", claim=claim) for claim in told[1:]],
        "recap": [Exchange("recap", noun=noun) for noun in reading.things],
        "opinion": [Exchange("opinion", noun=noun) for noun in reading.characters],
        "moral": [Exchange("moral")],
        "close": [Exchange("close")],
    }
    return [exchange for use, all_of in by_use.items() for exchange in all_of[: share[use]]]


def _spread(claims: Sequence[Claim], count: int) -> list[Claim]:
    """Choose ``count`` claims from a story's start to its end, evenly."""
    if count <= 1:
        return list(claims[:count])
    last = len(claims) - 1
    return [claims[round(at * last / (count - 1))] for at in range(count)]


Filler = Callable[[str, str], Said]
"""Fills a slot: its name and a language to what is shown and read there."""


def _filler(exchange: Exchange, source: SourceText, other: Speaker) -> Filler:
    """Return what fills the slots of the phrases of ``exchange``."""

    def fill(slot: str, language: str) -> Said:
        filled: Said | None = None
        if slot in {"title", "moral"}:
            filled = getattr(source, slot)[language]
        elif slot == "other":
            name = (other.english or other.name) if language == "en" else other.name
            filled = (name, other.reading or other.name)
        elif exchange.claim is not None:
            text, kana = say_claim(exchange.claim, language, plain=slot == "claim_plain")
            filled = (_capital(text) if slot == "Claim" else text, kana)
        elif exchange.noun is not None and slot == "exists":
            filled = ("います",) * 2 if exchange.noun.character else ("あります",) * 2
        elif exchange.noun is not None:
            filled = exchange.noun.form(language, slot)
        if filled is None:
            msg = f"phrases.toml: {exchange.use} has nothing to put in {{{slot}}}"
            raise LookupError(msg)
        return filled

    return fill


def say_claim(claim: Claim, language: str, *, plain: bool = False) -> Said:
    """Say a claim in ``language``, without a capital or a full stop; ``plain`` for Japanese."""
    shown, kana = claim.verb.words["ja_plain" if plain else language]
    subject = claim.subject.form(language, "the")
    thing = (claim.thing or claim.subject).form(language, "the_acc")
    text = shown.replace("{s}", subject[0]).replace("{o}", thing[0])
    if kana is None:
        return (text, None)
    reading = kana.replace("{s}", subject[1] or subject[0])
    return (text, reading.replace("{o}", thing[1] or thing[0]))


def _ways(use: str, level: Level, fill: Filler, language: Language, turn: int) -> list[Phrase]:
    """Return ways of saying ``use`` at ``level``, no two alike, the usual one first."""
    tier = TIER[level]
    group = _LEAD_GROUPS.get(use)
    before: list[dict[str, Said] | None] = list(leads(group or use.rpartition(".")[2]))
    if group is None:
        # Nothing before the phrase, or another word each time where the level is talkative.
        before.insert(0, None)
        usual = (turn // 2 + 1) % len(before) if level in TALKATIVE else 0
        before = before[usual:] + before[:usual]
    ways = [_joined(lead, phrases(use, tier), fill, language) for lead in before]
    easier = [_joined(None, phrases(use, low), fill, language) for low in range(tier - 1, 0, -1)]
    return [ways[0], *easier, *ways[1:]]


def _joined(
    lead: dict[str, Said] | None, phrase: dict[str, Said], fill: Filler, language: Language
) -> Phrase:
    """Put ``lead`` before ``phrase`` and fill the slots, in ``language`` and in English."""

    def say(key: str) -> Said:
        shown, kana = _filled(phrase[key], fill, key)
        shown = _capital(shown)
        if lead is None:
            return (shown, kana)
        lead_shown, lead_kana = _filled(lead[key], fill, key)
        if kana is None or lead_kana is None:
            return (f"{lead_shown} {shown}", None)
        return (f"{lead_shown}{shown}", f"{lead_kana} {kana}")

    return _phrase(say, language)


def _filled(said: Said, fill: Filler, language: str) -> Said:
    """Fill the slots of what is shown and of what is read."""
    shown, kana = said
    for slot in _slots(shown):
        text, reading = fill(slot, language)
        shown = shown.replace(f"{{{slot}}}", text)
        if kana is not None:
            kana = kana.replace(f"{{{slot}}}", reading or text)
    return (shown, kana)


def _slots(template: str) -> list[str]:
    return [part.partition("}")[0] for part in template.split("{")[1:]]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _phrase(say: Callable[[str], Said], language: Language) -> Phrase:
    text, reading = say(language)
    return Phrase(text=text, reading=reading, translation=say("en")[0])
