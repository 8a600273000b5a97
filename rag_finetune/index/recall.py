"""How much of what an exact search finds another search finds: recall, measured on a sample."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

# The effort of a search is raised until it finds this much of the exact answer; under the bound,
# the index is not what it is taken for.
RECALL_TARGET = 0.97
RECALL_BOUND = 0.9
# Twice the effort for less than this is not worth it.
RECALL_STEP = 0.01

# How far a question is moved from a passage, in differences of two passages. Held against real
# questions (SQuAD, a MiniLM encoder) 0.6 puts HNSW up to 0.05 too low and IVF up to 0.1 too high.
MOVED = 0.6
QUESTIONS = 200
NEIGHBOURS = 5
BLOCK_ROWS = 16_384


class RecallSample:
    """Questions with their exact answers, to hold any search of the same vectors against."""

    def __init__(self, vectors: np.ndarray, questions: np.ndarray) -> None:
        """Answer the questions exactly, block by block.

        Args:
            vectors: shape (n, dim) float32, in memory or mapped.
            questions: shape (questions, dim).
        """
        self._vectors, self.questions = vectors, questions
        self.k = min(NEIGHBOURS, len(vectors))
        self.least = exact_scores(vectors, questions, self.k)[:, -1:]  # (questions, 1)

    def recall(self, rows: np.ndarray) -> float:
        """The share of the exact k nearest that a search has found.

        A row counts if its inner product is among the k largest, so that of two equal passages
        either will do.

        Args:
            rows: row numbers that the search gave, shape (questions, k); −1 for none.
        """
        found = self._vectors[np.maximum(rows, 0)].astype(np.float64)  # (questions, k, dim)
        questions = self.questions[:, None].astype(np.float64)
        products = (found * questions).sum(-1)
        rounding = 1e-6 * np.linalg.norm(found, axis=-1) * np.linalg.norm(questions, axis=-1)
        return float(((rows >= 0) & (products >= self.least - rounding)).mean())


def draw_questions(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Make stand-ins for the questions that will be asked, which nobody knows yet.

    A vector of the index itself would be too easy, since graphs and lists were made to lead to it:
    each of these is one of the vectors moved along the difference of two others, so that it lies
    about as far from the passages as real questions do. What real questions get is in
    benchmarks/results/index_types.json.

    Args:
        vectors: shape (n, dim), in memory or mapped.
        seed: of the draw.

    Returns:
        Shape (QUESTIONS, dim) float32.
    """
    rows = np.random.default_rng(seed).integers(len(vectors), size=(3, QUESTIONS))
    base, plus, minus = (vectors[row] for row in rows)
    return (base + MOVED * (plus - minus)).astype(np.float32)


def exact_scores(vectors: np.ndarray, questions: np.ndarray, k: int) -> np.ndarray:
    """The k largest inner products of each question, largest first.

    Args:
        vectors: shape (n, dim), in memory or mapped; read a block at a time.
        questions: shape (batch, dim).
        k: at most n.

    Returns:
        Shape (batch, k) float32.
    """
    best = np.empty((len(questions), 0), dtype=np.float32)
    for start in range(0, len(vectors), BLOCK_ROWS):
        products = questions @ vectors[start : start + BLOCK_ROWS].T
        both = np.concatenate([best, products], axis=1)
        best = np.partition(both, -min(k, both.shape[1]), axis=1)[:, -k:]
    return np.sort(best, axis=1)[:, ::-1]


class Tuned(NamedTuple):
    """How an index is to be searched.

    Attributes:
        parameters: its search parameters.
        recall: with these.
        most: whether no greater effort was tried, so that one might find more.
    """

    parameters: dict[str, int]
    recall: float
    most: bool


def tune(
    efforts: Iterable[dict[str, int]],
    measure: Callable[[dict[str, int]], float],
    target: float = RECALL_TARGET,
) -> Tuned:
    """Find the least effort that reaches a recall, else the least that is about the best.

    Args:
        efforts: search parameters, from the fastest search to the most thorough; at least one.
        measure: the recall with these.
        target: the recall to reach.
    """
    tried = []
    for parameters in efforts:
        recall = measure(parameters)
        tried.append((parameters, recall))
        if recall >= target:
            break
    else:
        best = max(recall for _, recall in tried)
        parameters, recall = next(one for one in tried if one[1] > best - RECALL_STEP)
    return Tuned(parameters, recall, parameters == tried[-1][0])


def advice(factory: str, tuned: Tuned) -> str:
    """What to say of an index that finds too little."""
    remedy = "Use a type that keeps more of each vector: hnsw, sq8 or flat."
    if tuned.parameters and tuned.most:
        names = " and ".join(tuned.parameters)
        remedy = f'Raise {names} under "search_parameters" in manifest.json, or use another type.'
    return (
        f"{factory}: finds {tuned.recall:.1%} of the {NEIGHBOURS} nearest passages, less than "
        f"{RECALL_BOUND:.0%}. {remedy}"
    )
