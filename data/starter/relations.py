"""What a fact sheet can say of its subject, in how many ways, and how it is asked.

In the templates of templates.json, {s} is the subject ("Velmora", "it", "the mineral"), {p} its
possessive, {r} the noun of the relation, {v} the value, {av} the value with its article, {k} the
kind of thing that the subject is, {o} another subject and {w} its value, {d} what was done in an
event ("discovered"), {n} the same as a noun, {y}, {w} and {c} its year, person and country, {tail}
and {tail2} ends of sentences that say nothing. templates_wide.json holds more of the same, for the
sheets that the generator reads last.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Templates = dict[str, Any]


def read_templates(name: str) -> Templates:
    """The templates of a file beside this one."""
    return json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def widened(templates: Any, more: Any) -> Any:
    """Both, key by key; lists one after the other."""
    if isinstance(templates, dict):
        return templates | {
            key: widened(templates[key], value) if key in templates else value
            for key, value in more.items()
        }
    return templates + more


PLAIN = read_templates("templates.json")
WIDE = widened(PLAIN, read_templates("templates_wide.json"))
PAST: list[str] = PLAIN["past"]


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


def relation(key: str, nouns: list[str], kind: str, templates: Templates, **words: str) -> Relation:
    """A relation from its templates, some slots filled with words; without a word, none has it."""

    def filled(name: str) -> tuple[str, ...]:
        texts = templates.get(name, [])
        for slot, word in words.items():
            texts = [text.replace(f"{{{slot}}}", word) for text in texts]
        return tuple(text for text in texts if "{n}" not in text)

    return Relation(
        key, tuple(nouns), kind, filled("statements"), filled("questions"), filled("reverse")
    )


def curated(templates: Templates) -> list[Relation]:
    """The relations that have templates of their own."""
    more = templates.get("more_of_relations", {})
    return [
        relation(
            one["key"],
            one.get("nouns", []),
            one["kind"],
            widened(one, more.get(one["key"], {})),
        )
        for one in templates["relations"]
    ]


CURATED = {False: curated(PLAIN), True: curated(WIDE)}  # by whether the templates are the wide ones


def event_relations(past: str, templates: Templates) -> list[Relation]:
    """Year, person and country of an event, such as a discovery."""
    noun, agent = templates["nouns_of_past"].get(past), templates["agents"].get(past)
    years = [f"year of {noun}", f"date of {noun}", f"{noun} year"] if noun else []
    places = [f"country of {noun}", f"place of {noun}"] if noun else []
    people = [agent] if agent else []
    words = {"d": past, "d0": past} | ({"n": noun} if noun else {})
    return [
        relation(f"{past} {kind}", nouns, kind, templates[kind], **words)
        for kind, nouns in (("year", years), ("person", people), ("place", places))
    ]


def membership(noun: str, templates: Templates) -> Relation:
    """A relation such as "group 8"."""
    return relation(noun, [noun], "label", templates["membership"], r=noun)


def lettered(noun: str, templates: Templates) -> Relation:
    """A relation such as "d-block"."""
    return relation(noun, [], f"-{noun}", templates["lettered"], r=noun)


def on_scale(name: str, templates: Templates) -> Relation:
    """A number on a scale that bears a name."""
    nouns = [f"{name} value", f"{name} number"]
    return relation(f"{name} scale", nouns, "number", templates["scale"], d=name)


def graded(stem: str, templates: Templates) -> Relation:
    """How much of a property the subject has, asked with the adjective: "tensive", "tensivity"."""
    ends = (("ive", "ivity"), ("ic", "icity"), ("able", "ability"), ("y", "iness"), ("al", "ality"))
    one, noun = ends[len(stem) % len(ends)]
    return relation(
        f"graded {stem}{one}", [f"{stem}{noun}"], "number", templates["graded"], d=stem + one
    )


def count_of(plural: str, templates: Templates) -> Relation:
    """How many parts the subject has."""
    key = f"number of {plural}"
    return relation(key, [key], "count", templates["count"], d=plural)
