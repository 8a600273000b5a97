"""Fact sheets about things that do not exist: passages, questions and answers.

A world holds a few subjects of one kind. All have the same relations, each with its own value, so
that only who reads both the name and the relation can answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relations import (
    CURATED,
    PAST,
    PLAIN,
    WIDE,
    Relation,
    Templates,
    count_of,
    event_relations,
    graded,
    lettered,
    membership,
    on_scale,
)
from values import ENDINGS, WORDS, Values, article, capitalise
from writer import OWN, Passage, Writer


@dataclass(frozen=True)
class Question:
    """A question about one fact; the answer is its value or, reversed, its subject."""

    text: str
    answer: str
    fact: tuple[str, str]


class Author(Values):
    """Draws worlds with all that stands in them."""

    @property
    def templates(self) -> Templates:
        """What its sentences are made from."""
        return WIDE if self.wide else PLAIN

    def random_relation(self) -> Relation:
        """A property made of words drawn at random."""
        section, kinds = self.pick(
            [
                ("measures", ["measure"]),
                ("measures", ["measure"]),
                ("roles", ["person"]),
                ("things", ["phrase", "phrase", "name", "adjective", "use"]),
                ("labels", ["label"]),
                ("things", ["phrase", "name"]),
                ("roles", ["person", "name"]),
                ("invented", ["measure", "phrase", "person", "name", "year", "label"]),
            ]
        )
        head = (
            self.syllables(2) + self.pick(["", "ity", "ness", "age", "ance", "th", "tivity"])
            if section == "invented"
            else self.pick(WORDS[section])
        )
        if self.wide and self.chance(0.15):
            head = self.scrap()
        if section == "labels" and self.chance(0.8):
            return membership(head, self.templates)
        kind = self.pick(kinds)
        if self.chance(0.3):
            head = f"{self.pick(WORDS['adjectives' if self.chance(0.6) else 'nouns'])} {head}"
        return Relation(head, (head,), kind)

    def draw_relations(self, count: int, labels: float = 0.0) -> list[Relation]:
        """Distinct relations, among them some that belong together, and a share of labels."""
        chosen: dict[str, Relation] = {}
        while len(chosen) < count:
            dice = self.random.random()
            if labels and self.chance(labels):
                noun = self.pick(WORDS["labels"])
                made = [membership(noun, self.templates)]
                if self.wide and self.chance(0.4):
                    made = [lettered(noun, self.templates)]
            elif self.wide and self.chance(0.06):
                made = [on_scale(self.name(), self.templates)]
            elif self.wide and self.chance(0.06):
                made = [graded(self.scrap(), self.templates)]
            elif self.wide and self.chance(0.12):
                made = [self.random_relation()]
            elif dice < 0.6:
                made = [self.pick(CURATED[self.wide])]
                if made[0].key in ("melting", "boiling") and self.chance(0.7):
                    made = CURATED[self.wide][:2]
            elif dice < 0.8:
                past = self.pick(PAST) if self.chance(0.1 if self.wide else 0.4) else "discovered"
                made = event_relations(past, self.templates)
            elif dice < 0.85:
                made = [count_of(self.pick(WORDS["plurals"]), self.templates)]
            else:
                made = [self.random_relation()]
            chosen |= {one.key: one for one in made}
        return self.random.sample(list(chosen.values()), len(chosen))

    def world(
        self,
        n_subjects: int,
        n_relations: int,
        similar: float = 0.05,
        rhyming: float = 0.0,
        labels: float = 0.0,
    ) -> World:
        """Subjects of one kind with their facts; shares of the names begin or end like another."""
        return World(self, n_subjects, self.draw_relations(n_relations, labels), similar, rhyming)


class World:
    """Subjects of one kind, and the value of every relation for each.

    Attributes:
        subjects: their names.
        relations: by key.
        values: (subject, key) → value; now and then one is that of the first subject.
    """

    def __init__(
        self,
        author: Author,
        n_subjects: int,
        relations: Sequence[Relation],
        similar: float,
        rhyming: float,
    ) -> None:
        """Draw names, relations and values."""
        self.author = author
        self.kind = author.pick(WORDS["kinds"])
        self.proper = author.chance(0.5)
        self.subjects = self._subjects(n_subjects, similar, rhyming)
        self.relations = {one.key: one for one in relations}
        self.values: dict[tuple[str, str], str] = {}
        for key, one in self.relations.items():
            for subject in self.subjects:
                value = author.value(one.kind)
                if subject != self.subjects[0] and author.chance(0.05):
                    value = self.values[self.subjects[0], key]
                self.values[subject, key] = value

    def _subjects(self, count: int, similar: float, rhyming: float) -> list[str]:
        author = self.author
        style = author.random.random()
        endings = author.random.sample(ENDINGS.split(), 2) if rhyming else []
        names: dict[str, None] = {}
        while len(names) < count:
            name = author.name()
            if style < 0.1:
                name = capitalise(author.pick(WORDS["nouns"]))
            elif style < 0.2 and self.proper:
                name = f"{author.pick(['Port', 'Lake', 'New', 'Old', 'Great', 'Saint'])} {name}"
            elif names and author.chance(similar):  # like another one but for its end
                name = author.pick(list(names))[:4] + author.syllables(1)
            elif rhyming and author.chance(rhyming):
                if author.chance(0.5):  # begins like a word
                    start = author.pick(WORDS[author.pick(list(WORDS))])
                    name = capitalise(start[: author.random.randint(2, 5)] + name.lower())
                name = name[: author.random.randint(3, 8)] + author.pick(endings)
            names[name if self.proper else name.lower()] = None
        return list(names)

    def passages(self, subject: str, parts: int, low: int, high: int) -> list[Passage]:
        """All facts of a subject over some passages of low to high words."""
        keys = list(self.relations)
        self.author.random.shuffle(keys)
        size = -(-len(keys) // parts)
        shares = [keys[start : start + size] for start in range(0, len(keys), size)]
        return [self.passage(subject, share, low, high) for share in shares]

    def passage(self, subject: str, keys: Sequence[str], low: int, high: int) -> Passage:
        """One passage that states these facts of a subject, and some of others."""
        return Writer(self, subject).write(keys, low, high)

    def question(self, fact: tuple[str, str], reverse: bool = False) -> Question:
        """A question whose answer is the value of a fact, or its subject."""
        author, (subject, key) = self.author, fact
        one, value = self.relations[key], self.values[fact]
        if reverse and sum(self.values[other, key] == value for other in self.subjects) == 1:
            general = author.templates["reverse"]
            templates = one.reverse if one.reverse and author.chance(0.6) else general
            if one.reverse or one.nouns:
                templates = templates if one.nouns else one.reverse
                return Question(self._ask(templates, one, subject, value), subject, fact)
        templates = author.templates["questions"]
        if one.questions and (not one.nouns or author.chance(OWN)):
            templates = list(one.questions)
        return Question(self._ask(templates, one, subject, value), value, fact)

    def _ask(self, templates: Sequence[str], one: Relation, subject: str, value: str) -> str:
        author = self.author
        noun = author.pick(one.nouns) if one.nouns else ""
        named = f"the {self.kind} {subject}" if author.chance(0.12) else subject
        text = author.pick(templates).format(
            s=named,
            p=f"{named}'s",
            r=noun,
            a=article(noun or "x"),
            k=self.kind,
            v=value,
        )
        if author.chance(0.04):
            return text.rstrip("?.")
        return capitalise(text)
