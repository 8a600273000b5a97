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
from typing import Any

from rag_finetune.data.cutting import UNSPACED

SHORTEST, LONGEST = 8, 45  # words of a sentence
CLOSING = r"\"'\u2019\u201d»)\]\u300d\u300f\uff09"
# A full stop, what closes with it, and white space, of which CJK's stops need none; or a paragraph.
END = re.compile(rf"(?:[.!?\u2026][{CLOSING}]*\s|[\u3002\uff01\uff1f][{CLOSING}]*|\n\s*\n)\s*")
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
        passages: rows with `id` and `text`.
        per_passage: questions of a passage at most: it has no more than it has sentences.
        share_kept: with which probability a word stays.
        seed: of the choice of sentences and words.

    Yields:
        For each question {id, question, answers, positive_ids}: the one answer is the sentence
        whole, so that other passages that hold it are no negatives. None for a passage without a
        sentence of 8 words; of one longer than 45 words a stretch of that length is taken. In
        scripts without spaces a character counts as a word.

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
            kept = [unit for unit in units if draw.random() < share_kept] or units
            yield {
                "id": f"cloze-{row['id']}" + (f"-{number}" if number else ""),
                "question": "".join(kept).strip(),
                "answers": ["".join(units).strip()],
                "positive_ids": [row["id"]],
            }


def sentences_of(text: str, draw: random.Random) -> Iterator[list[str]]:
    """The sentences of a text that are long enough, each as its words, with a space after most.

    Args:
        text: of a passage.
        draw: where a stretch of a sentence that is too long begins.

    Yields:
        8 to 45 words; joined they are the sentence, each white space of it one space.
    """
    start = 0
    for end in [*(found.end() for found in END.finditer(text)), len(text)]:
        if end < len(text) and text[end].islower():
            continue  # an abbreviation
        sentence = " ".join(text[start:end].split())
        start = end
        units = [
            found.group() + (" " if sentence[found.end() : found.end() + 1] == " " else "")
            for found in UNIT.finditer(sentence)
        ]
        if len(units) >= SHORTEST:
            first = draw.randint(0, max(0, len(units) - LONGEST))
            yield units[first : first + LONGEST]
