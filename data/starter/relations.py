"""What a fact sheet can say of its subject, in how many ways, and how it is asked.

In the templates of templates.json, {s} is the subject ("Velmora", "it", "the mineral"), {p} its
possessive, {r} the noun of the relation, {v} the value, {k} the kind of thing that the subject is,
{o} another subject and {w} its value, {d} what was done in an event ("discovered"), {y}, {w} and
{c} its year, person and country, {tail} and {tail2} ends of sentences that say nothing.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATES: dict[str, Any] = json.loads(
    (Path(__file__).parent / "templates.json").read_text(encoding="utf-8")
)
PAST: list[str] = TEMPLATES["past"]


@dataclass(frozen=True)
class Relation:
    """One property.

    Attributes:
        key: facts of one key are the same property.
        nouns: what it is called, for the templates that fit every noun; empty for none.
        kind: names the maker of values in values.py.
        statements: sentences of its own.
        questions: questions of its own.
        reverse: questions that name the value and ask for the subject.
    """

    key: str
    nouns: tuple[str, ...]
    kind: str
    statements: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    reverse: tuple[str, ...] = ()


def relation(
    key: str, nouns: list[str], kind: str, templates: dict[str, Any], **words: str
) -> Relation:
    """A relation from its templates, some slots filled with words."""

    def filled(name: str) -> tuple[str, ...]:
        texts = templates.get(name, [])
        for slot, word in words.items():
            texts = [text.replace(f"{{{slot}}}", word) for text in texts]
        return tuple(texts)

    return Relation(
        key, tuple(nouns), kind, filled("statements"), filled("questions"), filled("reverse")
    )


CURATED = [
    relation(one["key"], one.get("nouns", []), one["kind"], one) for one in TEMPLATES["relations"]
]


def event_relations(past: str) -> list[Relation]:
    """Year, person and country of an event, such as a discovery."""
    noun, agent = TEMPLATES["nouns_of_past"].get(past), TEMPLATES["agents"].get(past)
    years = [f"year of {noun}", f"date of {noun}", f"{noun} year"] if noun else []
    places = [f"country of {noun}", f"place of {noun}"] if noun else []
    people = [agent] if agent else []
    return [
        relation(f"{past} {kind}", nouns, kind, TEMPLATES[kind], d=past, d0=past)
        for kind, nouns in (("year", years), ("person", people), ("place", places))
    ]


def membership(noun: str) -> Relation:
    """A relation such as "group 8"."""
    return relation(noun, [noun], "label", TEMPLATES["membership"], r=noun)


def count_of(plural: str) -> Relation:
    """How many parts the subject has."""
    key = f"number of {plural}"
    return relation(key, [key], "count", TEMPLATES["count"], d=plural)
