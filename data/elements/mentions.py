"""Sentences about two or more elements: neighbours, what they share, how they compare."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from element_facts import Facts, Table, having
from sentences import Sentence, plain_statement

NEAR = 12  # comparisons are with one of so many elements next in the order of the value
CLOSE = 0.7  # how often a contrast is with an element close by in the table
NAMED = ("lower", "higher", "previous", "next", "other", "another")


class Mentions:
    """Draws true sentences that set one element beside others of the same table."""

    def __init__(self, table: Table, templates: dict[str, Any]) -> None:
        """Order the table by each number and gather the elements that share a value."""
        self.table, self.templates = table, templates
        self.order = {
            field: sorted(having(table, field), key=lambda name: Decimal(table[name][field]))
            for field in ("atomic_number", *templates["comparisons"])
        }

    def draw(self, name: str, rng: random.Random) -> Iterator[Sentence]:
        """Sentences on an element and others, without end; none of them states a listed fact."""
        makers = [self._neighbours, self._shared, self._compared]
        while True:
            sentence = rng.choices(makers, weights=[2, 2, 4])[0](name, rng)
            if sentence is not None:
                yield sentence

    def contrast(self, name: str, told: list[str], rng: random.Random) -> Sentence:
        """A sentence that states another element's value of one of the fields told of this one."""
        while True:
            field = rng.choice(told)
            near = self._close(name) if rng.random() < CLOSE else list(self.table)
            value, other = self.table[name][field], rng.choice(near)
            if self.table[other].get(field, value) != value:
                statement = plain_statement(other, field, self.table, self.templates, rng)
                text = rng.choice(self.templates["contrasts"]).format(statement=statement)
                return Sentence(text, {}, [(other, field)], field, True, "contrast")

    def _close(self, name: str) -> list[str]:
        order = self.order["atomic_number"]
        place = order.index(name)
        return [other for other in order[max(0, place - 3) : place + 4] if other != name]

    def _neighbours(self, name: str, rng: random.Random) -> Sentence | None:
        order = self.order["atomic_number"]
        place = order.index(name)
        named = dict(
            previous=order[place - 1] if place else None,
            next=order[place + 1] if place + 1 < len(order) else None,
        )
        sentence = self._fill("atomic_number", rng.choice(self.templates["neighbours"]), named)
        if sentence is not None:
            sentence.template = "neighbours"  # one of them is enough for a passage
        return sentence

    def _shared(self, name: str, rng: random.Random) -> Sentence | None:
        field = rng.choice(list(self.templates["shared"]))
        value = self.table[name].get(field)
        mates = [
            other
            for other, facts in self.table.items()
            if value and other != name and facts.get(field) == value
        ]
        rng.shuffle(mates)
        named = dict(zip(("other", "another"), mates, strict=False))
        return self._fill(field, rng.choice(self.templates["shared"][field]), named)

    def _compared(self, name: str, rng: random.Random) -> Sentence | None:
        field = rng.choice(list(self.templates["comparisons"]))
        if field not in self.table[name]:
            return None
        value = Decimal(self.table[name][field])
        order = self.order[field]
        lower = [other for other in order if Decimal(self.table[other][field]) < value][-NEAR:]
        higher = [other for other in order if Decimal(self.table[other][field]) > value][:NEAR]
        named = dict(
            lower=rng.choice(lower) if lower else None,
            higher=rng.choice(higher) if higher else None,
        )
        return self._fill(field, rng.choice(self.templates["comparisons"][field]), named)

    def _fill(self, topic: str, template: str, named: Mapping[str, str | None]) -> Sentence | None:
        """The template with the others' names, or None when one of them is missing."""
        wanted = [word for word in NAMED if f"{{{word}}}" in template]
        if any(named.get(word) is None for word in wanted):
            return None
        values: Facts = {word: str(named[word]) for word in wanted}
        return Sentence(template, values, [], topic, True, template)
