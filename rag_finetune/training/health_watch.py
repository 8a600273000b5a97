"""Watches, while it trains, whether a retriever still chooses among passages."""

import warnings
from collections import deque
from collections.abc import Callable

import numpy as np
from torch import Tensor

from rag_finetune.metrics.health import collapses, retrieval_health

FEWEST = 20  # questions from which variety says something
MOST = 1000  # batches that are kept where nobody asks


class HealthWatch:
    """Collects what training questions retrieve, and says what is wrong, each kind once a run.

    So a run without validation says so too, and one with it says so before the next evaluation.
    """

    def __init__(self, n_passages: int, judge: Callable[..., dict[str, str]] = collapses) -> None:
        """Nothing is known yet.

        Args:
            n_passages: size of the index.
            judge: `collapses`, with what it is to know of the run.
        """
        self.n_passages, self._judge = n_passages, judge
        self._batches: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=MOST)
        self._first: tuple[int, dict[str, float]] | None = None
        self._told: set[str] = set()

    def note(self, doc_ids: np.ndarray, doc_scores: Tensor) -> None:
        """Note the passages of a batch.

        Args:
            doc_ids: rows of the index, shape (B, K); −1 for no passage.
            doc_scores: their scores, shape (B, K).
        """
        self._batches.append((doc_ids, doc_scores.detach().float().cpu().numpy()))

    def take(self, warn: bool) -> dict[str, float]:
        """Figures of the questions since they were last taken; none while those are few.

        Args:
            warn: also warn of what is wrong.

        Returns:
            What `retrieval_health` gives.
        """
        count = sum(len(doc_ids) for doc_ids, _ in self._batches)
        if count < FEWEST:
            return {}
        ids, scores = (np.concatenate(parts) for parts in zip(*self._batches, strict=True))
        self._batches.clear()
        retrieved = [[str(row) if row >= 0 else "" for row in rows] for rows in ids.tolist()]
        health = retrieval_health(retrieved, scores, self.n_passages)
        self._first = self._first or (count, health)
        # Of more questions a smaller share is distinct: only as many are held against each other.
        before = self._first[1] if self._first[0] == count else None
        found = self._judge(health, count, before) if warn else {}
        for kind in found.keys() - self._told:
            warnings.warn(f"In training, {found[kind]}", stacklevel=2)
        self._told |= found.keys()
        return health
