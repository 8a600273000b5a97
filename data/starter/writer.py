"""Writes the facts of a subject as a passage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relations import PAST, Relation
from values import article, capitalise

if TYPE_CHECKING:
    from sheets import World

OWN = 0.6  # share of statements and questions that are the relation's own
FRONTED = 0.2  # share of wide statements that begin with the value, where one can


@dataclass(frozen=True)
class Passage:
    """A title, a text, and the facts (subject, key) that it states."""

    title: str
    text: str
    facts: frozenset[tuple[str, str]]


class Writer:
    """Writes one passage, and keeps in mind whom "it" would mean."""

    def __init__(self, world: World, subject: str) -> None:
        """Nothing is written yet."""
        self.world, self.subject = world, subject
        self.author = world.author
        self.templates = world.author.templates
        self.others = [other for other in world.subjects if other != subject]
        self.facts: set[tuple[str, str]] = set()
        self.named = False
        self.keys: Sequence[str] = ()

    def write(self, keys: Sequence[str], low: int, high: int) -> Passage:
        """A passage of low to high words with the facts of these keys, one more or one less."""
        author, sentences = self.author, []
        self.keys, queue = keys, list(keys)
        target = author.random.randint(low, high)
        length = 0
        while queue and length < high - 8:
            sentence = self._next(queue)
            if author.contrasts and self.others and author.chance(author.contrasts):
                key = author.pick([*self.keys, *self.world.relations])
                sentence += " " + self._sentence(self._comparison(key, False))
                self.named = False  # "it" would be the other one
            sentences.append(sentence)
            length += len(sentence.split())
        while length < target - 8:
            extra, place = "", len(sentences)
            if author.chance(0.2):
                key = author.pick(list(self.world.relations))
                extra = self._comparison(key, author.chance(0.3))
            if not extra:
                extra = self._aside()
                place = author.random.randint(1, len(sentences))
            extra = self._sentence(extra)
            sentences.insert(place, extra)
            length += len(extra.split())
        return Passage(self._title(), " ".join(sentences), frozenset(self.facts))

    def _title(self) -> str:
        author, name = self.author, capitalise(self.subject)
        if author.chance(0.75):
            return name
        topic = author.pick(["history", "uses", "properties", "facts", "origin", "overview"])
        return author.pick(
            [
                f"{name}: {topic}",
                f"{name} ({self.world.kind})",
                f"The {self.world.kind} {name}",
                f"{capitalise(topic)} of {self.subject}",
                capitalise(self.world.kind),
            ]
        )

    def _next(self, queue: list[str]) -> str:
        """The sentence for the first fact of the queue, maybe with others."""
        author, world = self.author, self.world
        key = queue.pop(0)
        one = world.relations[key]
        event = key.split()[0]
        together = [k for k in queue if k.split()[0] == event and event in PAST]
        if together and author.chance(0.6):
            text, used = self._event([key, *together])
            if text:
                for other in used:
                    if other in queue:
                        queue.remove(other)
                return self._sentence(text)
        if author.chance(0.03) and self.others:
            text = self._comparison(key, True)
            if text:
                return self._sentence(text)
        if author.wide and queue and author.chance(0.2):
            text = self._compound(one, world.relations[queue[0]])
            if text:
                queue.pop(0)
                return self._sentence(text)
        partner = next((k for k in queue if world.relations[k].nouns), None)
        if partner and one.nouns and author.chance(0.08):
            queue.remove(partner)
            return self._sentence(self._pair(one, world.relations[partner]))
        first, sentence = self._single(self.subject, one), ""
        if queue and author.chance(0.05):
            self.named = self.named or self.subject in first
            second = world.relations[queue.pop(0)]
            sentence = f"{first}{author.pick([', and ', '; ', ' and ', ', while '])}"
            return self._sentence(sentence + self._single(self.subject, second))
        return self._sentence(first)

    def _sentence(self, text: str) -> str:
        self.named = self.named or self.subject in text
        mark = "" if text.endswith(".") and not text.endswith("..") else "."
        return capitalise(text) + mark

    def _subject(self) -> tuple[str, str]:
        """The subject and its possessive, by name or as "it"."""
        author, kind = self.author, self.world.kind
        if self.named and author.chance(0.6):
            noun = author.pick(["it", "it", "it", f"the {kind}", f"this {kind}"])
            return noun, "its" if noun == "it" else f"{noun}'s"
        name = self.subject
        if not self.named and author.chance(0.15):
            name = f"the {kind} {name}"
        return name, f"{name}'s"

    def _fill(self, template: str, one: Relation, fact: tuple[str, str], **more: str) -> str:
        author = self.author
        noun = author.pick(one.nouns) if one.nouns else ""
        name, possessive = self._subject() if fact[0] == self.subject else (fact[0], f"{fact[0]}'s")
        self.facts.add(fact)
        words = {
            "s": name,
            "p": possessive,
            "r": noun,
            "a": article(noun or "x"),
            "v": self.world.values[fact],
            "av": f"{article(self.world.values[fact].lower())} {self.world.values[fact]}",
            "k": self.world.kind,
            "tail": author.pick(self.templates["tails"]),
            "tail2": author.pick(self.templates["tails2"]),
        }
        return template.format(**(words | more))

    def _single(self, subject: str, one: Relation) -> str:
        author = self.author
        templates: Sequence[str] = self.templates["statements"]
        if one.statements and (not one.nouns or author.chance(OWN)):
            templates = one.statements
        fronted = [template for template in templates if template.startswith("{v} ")]
        if author.wide and fronted and author.chance(FRONTED):
            templates = fronted
        return self._fill(author.pick(templates), one, (subject, one.key))

    def _pair(self, one: Relation, two: Relation) -> str:
        """Two facts in one sentence."""
        templates = self.templates["pairs"]
        if one.kind == two.kind == "label":
            templates = self.templates["membership_pairs"]
        fact = (self.subject, two.key)
        self.facts.add(fact)
        noun = self.author.pick(two.nouns)
        return self._fill(
            self.author.pick(templates),
            one,
            (self.subject, one.key),
            r2=noun,
            a2=article(noun),
            v2=self.world.values[fact],
        )

    def _compound(self, one: Relation, two: Relation) -> str:
        """Two facts of which each could end a sentence that begins with the subject."""
        ends = []
        for each in (one, two):
            general = [] if not each.nouns else ["{s} has {a} {r} of {v}", "{s} has the {r} {v}"]
            whole = [t for t in (*each.statements, *general) if t.startswith("{s} ")]
            fitting = [t for t in whole if "tail" not in t]
            if not fitting:
                return ""
            text = self.author.pick(fitting).removeprefix("{s} ")
            ends.append(self._fill(text, each, (self.subject, each.key)))
        joined = ["{} {} and {}", "{} {} and it {}", "{}, which {}, {}"]
        return self.author.pick(joined).format(self._subject()[0], *ends)

    def _comparison(self, key: str, with_subject: bool) -> str:
        """A fact of another subject, beside the subject's own or alone."""
        if not self.others:
            return ""
        one, other = self.world.relations[key], self.author.pick(self.others)
        if not with_subject or not one.nouns:
            text = self._single(other, one)
            if not with_subject:
                author = self.author
                starts = ["", "", "by contrast, ", "in the same way, ", "meanwhile, "]
                if author.contrasts:
                    starts += ["by contrast, ", "for comparison, ", "meanwhile, ", "elsewhere, "]
                return author.pick(starts) + text
            own = self._single(self.subject, one)
            joined = [f"{text}, but {own}", f"while {text}, {own}", f"{own}; {text}"]
            return self.author.pick(joined)
        self.facts.add((other, key))
        return self._fill(
            self.author.pick(self.templates["comparisons"]),
            one,
            (self.subject, key),
            o=other,
            w=self.world.values[other, key],
        )

    def _event(self, keys: Sequence[str]) -> tuple[str, list[str]]:
        """Year, person and country of one event in a sentence; empty where no template fits."""
        slots = {"year": "y", "person": "w", "place": "c"}
        past = keys[0].split()[0]
        given = {slots[key.split()[-1]]: key for key in keys}
        fitting = [
            template
            for template in self.templates["events"]
            if all(f"{{{slot}}}" not in template or slot in given for slot in "ywc")
            and f"{{{slots[keys[0].split()[-1]]}}}" in template
        ]
        if not fitting:
            return "", []
        template = self.author.pick(fitting)
        used = [key for slot, key in given.items() if f"{{{slot}}}" in template]
        self.facts |= {(self.subject, key) for key in used}
        values = {slot: self.world.values[self.subject, key] for slot, key in given.items()}
        text = self._fill(
            template.replace("{d0}", past).replace("{d}", past),
            self.world.relations[keys[0]],
            (self.subject, keys[0]),
            **values,
        )
        return text, used

    def _aside(self) -> str:
        """A sentence that states no fact."""
        if self.author.wide and self.others and self.author.chance(0.7):
            return self._unvalued()
        if self.author.chance(0.5) and self.others:
            return self._mention()
        return str(self.author.pick(self.templates["fillers"]))

    def _unvalued(self) -> str:
        """How the subject compares with others in a property, without the value."""
        author = self.author
        one = self.world.relations[author.pick(list(self.world.relations))]
        event = one.key.split()[0]
        templates = self.templates["unvalued"].get(one.key)
        word = event
        if event in PAST:
            templates = self.templates["unvalued"]["event"]
        elif event == "graded":
            templates, word = self.templates["unvalued"]["graded"], one.key.split()[1]
        elif not templates or author.chance(0.3):
            templates = self.templates["unvalued"]["any"]
        name, _ = self._subject()
        return str(author.pick(templates)).format(
            s=name,
            r=author.pick(one.nouns or ("place",)),
            o=author.pick(self.others),
            o2=author.pick(self.others),
            d=word,
        )

    def _mention(self) -> str:
        pair = (
            self.author.random.sample(self.others, 2) if len(self.others) > 1 else self.others * 2
        )
        return self.author.pick(self.templates["mentions"]).format(o=pair[0], o2=pair[1])
