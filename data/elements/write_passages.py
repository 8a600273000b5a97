"""Passages: what the table says about each element, with words on other elements between."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from element_facts import FIELDS, SEED, Facts, Table
from mentions import Mentions
from sentences import Fact, Sentence, state

# Which of an element's passages tells each fact, unless chance moves it to another one.
HOMES = {
    "symbol": 0,
    "atomic_number": 0,
    "atomic_mass": 0,
    "group": 0,
    "period": 0,
    "block": 0,
    "category": 0,
    "melting_point": 1,
    "boiling_point": 1,
    "density": 1,
    "electronegativity": 1,
    "discovery_year": 2,
    "discovery_country": 2,
    "discoverers": 2,
    "name_origin": 2,
    "appearance": 3,
    "main_use": 3,
}
MOVED, CONTRAST, PRONOUN = 0.15, 0.35, 0.5
FOUR_PASSAGES = 13  # an element of so many facts has four passages, another three
SHORTEST, LONGEST, TARGETS = 52, 98, (56, 86)  # words


@dataclass
class Passage:
    """One row of the passages and the facts that its sentences state."""

    id: str
    title: str
    text: str
    facts: list[Fact]


def write_passages(table: Table, templates: dict[str, Any]) -> list[Passage]:
    """Three or four passages an element, which together state every fact of the table.

    Args:
        table: the facts of each element, true or permuted.
        templates: what `templates.json` holds.

    Returns:
        Passages of 50 to 100 words, each of which also speaks of another element.
    """
    mentions = Mentions(table, templates)
    passages = []
    for name in table:
        for number, fields in enumerate(_share_out(name, table[name]), start=1):
            rng = random.Random(f"{SEED} passage {name} {number}")
            sentences = _write(name, fields, table, templates, mentions, rng)
            facts = dict.fromkeys(fact for each in sentences for fact in each.facts)
            text = " ".join(_say(name, sentences, rng))
            passages.append(Passage(f"{name}-{number}", name.capitalize(), text, list(facts)))
    return passages


def _share_out(name: str, facts: Facts) -> list[list[str]]:
    """The fields that each passage of an element must tell; others may follow them."""
    rng = random.Random(f"{SEED} share {name}")
    shares: list[list[str]] = [[] for _ in range(4 if len(facts) >= FOUR_PASSAGES else 3)]
    for field in FIELDS:
        if field in facts:
            home = min(HOMES[field], len(shares) - 1)
            shares[rng.randrange(len(shares)) if rng.random() < MOVED else home].append(field)
    return shares


def _write(
    name: str,
    fields: list[str],
    table: Table,
    templates: dict[str, Any],
    mentions: Mentions,
    rng: random.Random,
) -> list[Sentence]:
    """The sentences of one passage, in the order in which they will stand."""
    spare = [field for field in table[name] if field not in fields]

    def tell(some: list[str]) -> Iterator[Sentence]:
        return state(name, rng.sample(some, len(some)), table, templates, rng)

    draft = _Draft()
    draft.take(tell(fields))
    draft.take(mentions.draw(name, rng), until=lambda: draft.names_others)
    target = rng.randint(*TARGETS)
    extras = [*tell(spare), *islice(mentions.draw(name, rng), 3)]
    draft.take(iter(rng.sample(extras, len(extras))), until=lambda: draft.words >= target)
    while draft.words < SHORTEST:
        draft.take(islice(mentions.draw(name, rng), 1))
        draft.take(tell(fields + spare), until=lambda: draft.words >= SHORTEST)
    if rng.random() < CONTRAST:
        draft.take(iter([mentions.contrast(name, draft.told(name), rng)]))
    return _order(draft.sentences, rng)


def _order(sentences: list[Sentence], rng: random.Random) -> list[Sentence]:
    """Topic by topic, in an order by chance; a contrast after what it is set against."""
    places = rng.sample(range(4), 4)
    return sorted(
        rng.sample(sentences, len(sentences)),
        key=lambda each: (places[HOMES[each.topic]], each.template == "contrast"),
    )


class _Draft:
    """The sentences taken so far: no template twice, none past the longest length."""

    def __init__(self) -> None:
        self.sentences: list[Sentence] = []
        self.words = 0

    @property
    def names_others(self) -> bool:
        return any(sentence.names_others for sentence in self.sentences)

    def told(self, name: str) -> list[str]:
        facts = dict.fromkeys(fact for each in self.sentences for fact in each.facts)
        return [field for subject, field in facts if subject == name]

    def take(
        self, sentences: Iterator[Sentence], until: Callable[[], bool] = lambda: False
    ) -> None:
        while not until() and (sentence := next(sentences, None)) is not None:
            length = len(sentence.say("name").split())
            is_new = all(sentence.template != each.template for each in self.sentences)
            if is_new and self.words + length <= LONGEST:
                self.sentences.append(sentence)
                self.words += length


def _say(name: str, sentences: list[Sentence], rng: random.Random) -> Iterator[str]:
    """The sentences in words; "it" stands only where no other element was spoken of before."""
    clear = False
    for sentence in sentences:
        yield sentence.say(name, pronoun=clear and rng.random() < PRONOUN)
        clear = not sentence.names_others
