"""Does the index belong to the question encoder? Asked of a few questions before hours are spent.

Vectors of two encoders that were not trained together have the same shape and any search over them
looks like a search. What tells is whether a question finds *its* answer more often than the
passages that other questions found hold it: for unrelated vectors, for a collapsed encoder and for
an index of a few passages that everything finds, the two are equal.
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.gold import resolve_positives
from rag_finetune.index.store import PassageIndex
from rag_finetune.metrics.answers import answers_in_corpus, has_answer

QUESTIONS = 200
# Fewer whose answer the corpus is known to hold tell nothing, nor do fewer different answers: any
# passage may hold "true" or "no".
ENOUGH = 30
PASSAGES_READ = 20_000  # in which answers are looked for, to know that the corpus holds them
DEPTH = 10  # passages a question, at most
DEPTH_SHARE = 20  # and at most one in so many of the corpus: else anything finds everything
# Of what chance leaves over: under the first share it is chance, whatever its significance; a
# retriever that finds the second must stand out by POWER deviations, or nothing is concluded.
NEGLIGIBLE, WORKING = 0.05, 0.2
SIGNIFICANT, POWER = 2.33, 4.0  # in standard deviations; 2.33: one time in a hundred by chance


@dataclass(frozen=True)
class Probe:
    """How often questions find their answer, against what chance gives.

    Attributes:
        n_questions: questions whose answer (or gold passage) the corpus is known to hold.
        depth: passages of each that were looked at.
        recall: share of them that find it.
        chance: share expected if the passages found were those of other questions.
        deviations: how far the first is above the second, in standard deviations of the second
            when questions and what they found are shuffled.
        is_conclusive: a retriever of any use would show over these questions.
    """

    n_questions: int
    depth: int
    recall: float
    chance: float
    deviations: float
    is_conclusive: bool

    @property
    def is_near_chance(self) -> bool:
        """Whether it is as good as certain that questions do not find their answers."""
        negligible = self.recall - self.chance < NEGLIGIBLE * (1.0 - self.chance)
        return self.is_conclusive and (negligible or self.deviations < SIGNIFICANT)


def probe_retrieval(encoder: TextEncoder, index: PassageIndex, questions: Dataset) -> Probe:
    """Search for up to 200 questions, spread over the file, and hold it against chance.

    Args:
        encoder: the question encoder.
        index: the opened index.
        questions: columns question, answers, positive_ids. A passage with an answer counts; for a
            question without answers a gold passage does.

    Returns:
        What was found. Fractions are 0, and nothing is concluded, where under 30 questions have an
        answer that is known to stand in the corpus; nor is it where they have under 30 answers.
    """
    rows = np.unique(np.linspace(0, len(questions) - 1, QUESTIONS).astype(int))
    asked = questions.select(rows)
    depth = max(1, min(DEPTH, len(index) // DEPTH_SHARE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is lost or unknown is said where all are asked
        if not all(_written(asked)):
            asked = resolve_positives(asked, index)
        vectors = encoder.encode(asked["question"][:])
    _, doc_ids = index.search(vectors, depth)
    hits = hit_matrix(asked, index, doc_ids)
    is_known = hits.any(axis=1) | _is_in_corpus(asked, index)
    probe = judge(hits, is_known, depth)
    varied = _distinct(asked.select(np.flatnonzero(is_known))) >= ENOUGH
    return replace(probe, is_conclusive=probe.is_conclusive and varied)


def judge(hits: np.ndarray, is_known: np.ndarray, depth: int) -> Probe:
    """Compare what questions find with what the same passages hold in any other order.

    Args:
        hits: whether the passages that question j found hold the answer of question i, (n, n).
        is_known: whether the corpus holds the answer of question i, (n,).
        depth: passages of each question.

    Source:
        Hoeffding 1951, A combinatorial central limit theorem: mean and variance of the sum of
        hits[i, π(i)] over the permutations π.
    """
    n_known = int(is_known.sum())
    if n_known < ENOUGH:
        return Probe(n_known, depth, 0.0, 0.0, 0.0, False)
    by_question, by_passages = hits.mean(axis=1, keepdims=True), hits.mean(axis=0, keepdims=True)
    variance = ((hits - by_question - by_passages + hits.mean()) ** 2).sum() / (len(hits) - 1)
    found, expected = float(np.trace(hits)), float(hits[is_known].mean(axis=1).sum())
    deviation = max(float(np.sqrt(variance)), 0.5)  # half a question: for none there is no scale
    spread = max(deviation, float(np.sqrt(expected * (1 - expected / n_known))))
    return Probe(
        n_questions=n_known,
        depth=depth,
        recall=found / n_known,
        chance=expected / n_known,
        deviations=(found - expected) / deviation,
        is_conclusive=WORKING * (n_known - expected) >= POWER * spread,
    )


def require_better_than_chance(
    encoder: TextEncoder, index: PassageIndex, questions: Dataset, right_encoder: str
) -> None:
    """Raise where questions do not find their answers in an index.

    Args:
        encoder: the question encoder.
        index: the opened index.
        questions: see `probe_retrieval`.
        right_encoder: the context encoder that the index should hold the vectors of, in words.

    Raises:
        ValueError: it is near chance; the message names both encoders.
    """
    probe = probe_retrieval(encoder, index, questions)
    if not probe.is_near_chance:
        return
    raise ValueError(
        f"{index.folder}: retrieval is no better than chance. Of {probe.n_questions} questions "
        f"whose answer is in the passages, {probe.recall:.0%} find it among the first "
        f"{probe.depth}; the passages that other questions find hold it for {probe.chance:.0%}. "
        f"The index holds vectors of {index.manifest.encoder['name']}; this model needs those of "
        f"{right_encoder}. Build the index with it: rag-finetune index. If the encoder is "
        "untrained, training made it collapse, or passages seldom hold the answers, go on with "
        "--probe false."
    )


def hit_matrix(questions: Dataset, index: PassageIndex, doc_ids: np.ndarray) -> np.ndarray:
    """Whether the passages that question j found hold the answer of question i, shape (n, n).

    Args:
        questions: the n questions.
        index: the index.
        doc_ids: the rows that each found, shape (n, depth); −1 for none.
    """
    unique = np.unique(doc_ids[doc_ids >= 0])
    golds = [frozenset(ids) for ids in questions["positive_ids"][:]]
    answers = _written(questions)
    holds = np.zeros((len(questions), len(unique)), dtype=bool)
    for column, passage in enumerate(index.passages_at(unique)):  # a text is cut into tokens once
        names = {passage["id"], passage["document_id"]}
        for row, texts in enumerate(answers):
            holds[row, column] = (
                has_answer(passage["text"], texts) if texts else bool(golds[row] & names)
            )
    found = np.zeros((len(questions), len(unique)), dtype=bool)
    for row, ids in enumerate(doc_ids):
        found[row, np.searchsorted(unique, ids[ids >= 0])] = True
    return holds.astype(int) @ found.T.astype(int) > 0


def _written(questions: Dataset) -> list[list[str]]:
    """The answers of each question that a passage can hold: not the empty one."""
    return [[text for text in texts if text.strip()] for texts in questions["answers"][:]]


def _distinct(questions: Dataset) -> int:
    """How many different answers questions have; a gold passage is one where there are none."""
    golds = questions["positive_ids"][:]
    answers = _written(questions)
    return len(
        {
            frozenset(text.strip().casefold() for text in texts) or (frozenset(ids),)
            for texts, ids in zip(answers, golds, strict=True)
        }
    )


def _is_in_corpus(questions: Dataset, index: PassageIndex) -> np.ndarray:
    """Whether the corpus holds the answer, or the gold passage, of each question, shape (n,).

    Answers are looked for in PASSAGES_READ passages, evenly spread; gold passages in all.
    """
    answers = _written(questions)
    rows = np.unique(np.linspace(0, len(index) - 1, PASSAGES_READ).astype(int))
    texts = (passage["text"] for passage in index.passages_at(rows))
    known = answers_in_corpus(texts, answers) if any(answers) else [False] * len(answers)
    golds = [
        set() if texts else {*ids}
        for texts, ids in zip(answers, questions["positive_ids"][:], strict=True)
    ]
    wanted: set[str] = set().union(*golds)
    present: set[str] = set()
    if wanted:
        for block in index.passages.select_columns(["id", "document_id"]).iter(10_000):
            present |= wanted & {*block["id"], *block["document_id"]}
    return np.array(known) | [bool(gold & present) for gold in golds]
