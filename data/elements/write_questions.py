"""Questions: which facts each file asks about, in which words, and what answers them."""

from __future__ import annotations

import random
from typing import Any

from element_facts import (
    FIELDS,
    SEED,
    Table,
    accepted_answers,
    having,
)
from sentences import Fact
from write_passages import Passage

UNSEEN = (
    "boron magnesium argon vanadium gallium bromine strontium zirconium palladium indium "
    "tellurium neodymium erbium tantalum iridium thallium polonium neptunium"
).split()
# How many of the facts of each kind are asked about: few where a guess is often right.
ASKED = {
    "symbol": 0.85,
    "atomic_number": 0.85,
    "atomic_mass": 0.85,
    "group": 0.5,
    "period": 0.3,
    "block": 0.25,
    "category": 0.35,
    "melting_point": 0.95,
    "boiling_point": 0.95,
    "density": 0.9,
    "electronegativity": 0.85,
    "discovery_year": 0.95,
    "discovery_country": 0.5,
    "discoverers": 0.95,
    "name_origin": 0.95,
    "appearance": 0.5,
    "main_use": 1.0,
}
TEST, VALIDATION = 0.2, 0.08  # of the facts asked about; training has the rest
PHRASINGS = {"train": 3, "validation": 2, "test": 2, "test_unseen": 2}

Question = dict[str, Any]


def split_facts(table: Table) -> dict[str, list[Fact]]:
    """The facts that each file asks about; no fact is in two of them.

    Returns:
        (element, field) pairs by split, in the order of the table. `test_unseen` has those of the
        elements that no other split asks about.
    """
    splits: dict[str, list[Fact]] = {split: [] for split in PHRASINGS}
    for field in FIELDS:
        rng = random.Random(f"{SEED} split {field}")
        for names in _unseen_and_seen(table, field):
            asked = rng.sample(names, round(ASKED[field] * len(names)))
            tested = round(TEST * len(asked))
            validated = tested + round(VALIDATION * len(asked))
            for place, name in enumerate(asked):
                split = "test" if place < tested else "validation" if place < validated else "train"
                splits["test_unseen" if name in UNSEEN else split].append((name, field))
    names = list(table)
    return {
        split: sorted(facts, key=lambda fact: (names.index(fact[0]), FIELDS.index(fact[1])))
        for split, facts in splits.items()
    }


def _unseen_and_seen(table: Table, field: str) -> tuple[list[str], list[str]]:
    names = having(table, field)
    return [each for each in names if each in UNSEEN], [
        each for each in names if each not in UNSEEN
    ]


def write_questions(
    table: Table,
    facts: list[Fact],
    split: str,
    templates: dict[str, Any],
    passages: list[Passage],
) -> list[Question]:
    """Ask about each fact in several wordings.

    Returns:
        `id`, which is element, field and number, `question`, `answers` and `positive_ids`: every
        passage that states the fact, those about the element itself first.
    """
    positives = gold_passages(passages)
    questions = []
    for name, field in facts:
        rng = random.Random(f"{SEED} ask {name} {field}")
        value = table[name][field]
        forward = rng.sample(templates["questions"][field], PHRASINGS[split])
        for number, text in enumerate(forward, start=1):
            row = _row(f"{name}-{field}-{number}", text.format(name=name))
            questions.append(row | _gold(accepted_answers(field, value), positives[name, field]))
    return questions


def counterfactual_questions(
    questions: list[Question], permuted: Table, passages: list[Passage]
) -> list[Question]:
    """The first question about each fact, with the answer of the permuted table.

    Args:
        questions: what `write_questions` made of the true table.
        permuted: the table that the passages tell.
        passages: the counterfactual passages.

    Returns:
        The questions, each with its new answers and the right ones as `true_answers`.
    """
    positives = gold_passages(passages)
    changed = []
    for row in questions:
        name, field, number = row["id"].split("-")
        if number != "1":
            continue
        gold = _gold(accepted_answers(field, permuted[name][field]), positives[name, field])
        changed.append(_row(row["id"], row["question"]) | gold | {"true_answers": row["answers"]})
    return changed


def gold_passages(passages: list[Passage]) -> dict[Fact, list[str]]:
    """The ids of the passages that state each fact, those about the element itself first."""
    stated: dict[Fact, list[str]] = {}
    for passage in passages:
        for fact in passage.facts:
            stated.setdefault(fact, []).append(passage.id)
    return {
        (name, field): sorted(ids, key=lambda id: id.rpartition("-")[0] != name)
        for (name, field), ids in stated.items()
    }


def _row(id: str, question: str) -> Question:
    return {"id": id, "question": question}


def _gold(answers: list[str], positive_ids: list[str]) -> Question:
    return {"answers": answers, "positive_ids": positive_ids}
