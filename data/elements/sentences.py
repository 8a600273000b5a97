"""Single sentences: a template of `templates.json` and the facts that fill it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from element_facts import Facts, Table, units, value_span, with_article

Fact = tuple[str, str]  # an element's name and a field

COMPOUND = 0.3  # how often two facts that can share a sentence do


@dataclass
class Sentence:
    """A sentence whose subject is still open: the element's name or "it".

    Attributes:
        text: the sentence with `{name}`, `{N}`, `{Ns}` and the keys of `values` in braces.
        values: what stands for the other words in braces.
        facts: the facts that it states.
        topic: the field that it is about.
        names_others: whether it speaks of another element.
        template: what it was made from, or its kind; no passage uses one twice.
    """

    text: str
    values: Facts
    facts: list[Fact]
    topic: str
    names_others: bool
    template: str

    def say(self, name: str, pronoun: bool = False) -> str:
        """The finished sentence about an element, named or called "it"."""
        subject = ("it", "its") if pronoun else (name, f"{name}'s")
        text = self.text.format(name=name, N=subject[0], Ns=subject[1], **self.values)
        return text[0].upper() + text[1:]


def state(
    name: str, fields: Sequence[str], table: Table, templates: dict[str, Any], rng: random.Random
) -> Iterator[Sentence]:
    """Sentences that state the given facts of an element, in order, some of them two at once."""
    left = list(fields)
    while left:
        told = [left.pop(0)]
        choices = templates["statements"][told[0]]
        pairs = [
            each
            for each in templates["compounds"]
            if told[0] in each["fields"] and any(other in left for other in each["fields"])
        ]
        if pairs and rng.random() < COMPOUND:
            pair = rng.choice(pairs)
            told, choices = pair["fields"], pair["texts"]
            left = [field for field in left if field not in told]
        template = rng.choice(choices)
        values = fact_words(table[name], told, rng)
        yield Sentence(
            template, values, [(name, field) for field in told], told[0], False, template
        )


def plain_statement(
    name: str, field: str, table: Table, templates: dict[str, Any], rng: random.Random
) -> str:
    """A clause that states one fact of an element by its name, without the capital letter."""
    template = rng.choice(templates["statements"][field])
    words = fact_words(table[name], [field], rng)
    return str(template.format(name=name, N=name, Ns=f"{name}'s", **words))


def fact_words(facts: Facts, fields: Sequence[str], rng: random.Random) -> Facts:
    """What stands for each field in a sentence: the answer with its unit or article."""
    words: Facts = {}
    for field in fields:
        span = value_span(field, facts[field])
        words[field] = span
        if choices := units(field, facts[field]):
            words[field] = f"{span} {rng.choice(choices)}"
        elif field == "discovery_country" and span.startswith("United"):
            words[field] = f"the {span}"
        elif field == "name_origin":
            words[field] = facts[field]
        elif field in ("block", "category", "appearance"):
            words[f"a_{field}"] = with_article(span, letter=field == "block")
    return words
