"""Questions made of passages, for a retriever that is to know them.

A sentence is taken out of a passage and words are dropped from it; the passage is what a search
for the rest should find: the inverse cloze task (Lee, Chang and Toutanova, 2019, arXiv:1906.00300),
where the sentence stays in the passage, with the deletion of Contriever's crops (Izacard et al.,
2022, arXiv:2112.09118). Neighbouring passages of one document are what tells such questions apart
from each other, as it does those that people ask.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from rag_finetune.data.cutting import UNSPACED, UNSPACED_CHARACTER, can_cut

SHORTEST, LONGEST = 8, 45  # words of a sentence
FEWEST = 4  # words of a question
CLOSING = r"\"'\u2019\u201d»)\]\u300d\u300f\uff09"
# A full stop, what closes with it, and white space, of which CJK's stops need none; or a paragraph.
END = re.compile(
    rf"(?P<stop>[.!?\u2026][{CLOSING}]*\s+)|[\u3002\uff01\uff1f][{CLOSING}]*\s*|\n\s*\n\s*"
)
UNIT = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


def cloze_questions(
    passages: Iterable[Mapping[str, Any]],
    per_passage: int = 1,
    share_kept: float = 0.6,
    seed: int = 42,
) -> Iterator[dict[str, Any]]:
    """Make questions of sentences, each with the passage that it was taken from as its gold.

    What is made of a passage hangs on it, its id and the seed alone, not on the others.

    Args:
        passages: rows with `id`, `title` and `text`.
        per_passage: questions of a passage at most: it has no more than it has sentences.
        share_kept: with which probability a word stays; four stay in any case.
        seed: of the choice of sentences and words.

    Yields:
        For each question {id, question, answers, title, context}, of which `load_questions` makes a
        question whose gold passage is found by its text, however an index names it. The one answer
        is the sentence whole, so that other passages that hold it are no negatives. None for a
        passage without a sentence of 8 words; of one longer than 45 words a stretch of that length
        is taken. In scripts without spaces a character counts as a word.

    Raises:
        ValueError: `per_passage` is below 1, or `share_kept` not above 0 and at most 1.
    """
    if per_passage < 1:
        raise ValueError(f"per_passage must be at least 1, found {per_passage}.")
    if not 0 < share_kept <= 1:
        raise ValueError(f"share_kept must be above 0 and at most 1, found {share_kept}.")
    for row in passages:
        draw = random.Random(f"{seed} {row['id']}")
        sentences = list(sentences_of(row["text"], draw))
        for number, units in enumerate(draw.sample(sentences, min(per_passage, len(sentences)))):
            stays = [draw.random() < share_kept for _ in units]
            while sum(stays) < FEWEST:
                stays[draw.randrange(len(units))] = True
            yield {
                "id": f"cloze{number + 1}-{row['id']}",
                "question": _joined(units, stays),
                "answers": ["".join(units).strip()],
                "title": row["title"],
                "context": row["text"],
            }


def is_cloze(question: str, answer: str) -> bool:
    """Whether a question is such a one: its words stand in its answer, in that order.

    An answer of another length than a sentence of `cloze_questions` makes none.
    """
    asked = _words(question)
    if not FEWEST <= len(asked) <= LONGEST:
        return False
    answered = _words(answer)
    rest = iter(answered)
    return SHORTEST <= len(answered) <= LONGEST and all(word in rest for word in asked)


def sentences_of(text: str, draw: random.Random) -> Iterator[list[str]]:
    """The sentences of a text that are long enough, each as its words, with a space after most.

    A full stop ends a sentence unless a small letter follows; an abbreviation before a name does
    too ("Dr. Quill").

    Args:
        text: of a passage.
        draw: where a stretch of a sentence that is too long begins.

    Yields:
        8 to 45 words, of which half or more have a letter or a digit; joined they are the sentence,
        each white space of it one space.
    """
    start = 0
    for found in [*END.finditer(text), None]:
        end = found.end() if found else len(text)
        if found and found["stop"] and text[end : end + 1].islower():
            continue  # an abbreviation
        sentence = " ".join(text[start:end].split())
        start = end
        count = sum(1 for _ in _units(sentence))
        if count >= SHORTEST:
            first = draw.randint(0, max(0, count - LONGEST))
            units = list(islice(_units(sentence), first, first + LONGEST))
            if 2 * sum(any(map(str.isalnum, unit)) for unit in units) >= len(units):
                yield units  # else a rule of a table


def _words(text: str) -> list[str]:
    return [unit.strip() for unit in _units(" ".join(text.split()))]


def _units(sentence: str) -> Iterator[str]:
    """Words, each with the space after it; in scripts without spaces what is seen as one sign."""
    start = 0
    for found in UNIT.finditer(sentence):
        if can_cut(sentence, found.start()):
            yield sentence[start : found.start()]
            start = found.start()
    if sentence:
        yield sentence[start:]


def _joined(units: list[str], stays: list[bool]) -> str:
    """The units that stay, with a space where one that went had parted two words."""
    text, gap = "", False
    for unit, kept in zip(units, stays, strict=True):
        if not kept:
            gap = True
            continue
        if gap and text and not (text[-1] == " " or UNSPACED_CHARACTER.search(text[-1] + unit[0])):
            text += " "
        text, gap = text + unit, False
    return text.strip()
