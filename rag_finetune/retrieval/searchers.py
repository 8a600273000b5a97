"""Searches that take the text of a question: what every kind of retrieval has in common."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.store import PassageIndex

VALUES_PER_BLOCK = 2**24  # of the passages' vectors that are held at once


class TextSearcher(Protocol):
    """Finds passages for questions; `LexicalIndex` is one."""

    def search(self, questions: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows of the k best passages, shape (batch, k); row −1 for none found."""
        ...

    def scores_at(self, questions: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Scores of given passages, shape (batch, n) as `rows`."""
        ...


class DenseSearcher:
    """Searches the vectors of an index with a question encoder."""

    def __init__(self, encoder: TextEncoder, index: PassageIndex) -> None:
        """Join the two.

        Raises:
            ValueError: their dimensions differ.
        """
        index.check_encoder(encoder.dimension, encoder.settings())
        self._encoder, self._index = encoder, index
        self._last: tuple[list[str], np.ndarray] = ([], np.empty((0, encoder.dimension)))

    def search(self, questions: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `TextSearcher`; scores are inner products."""
        return self._index.search(self._vectors(questions), min(k, len(self._index)))

    def scores_at(self, questions: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """See `TextSearcher`; 0 for row −1."""
        vectors = self._vectors(questions)
        scores = np.empty(rows.shape, np.float32)
        size = max(1, VALUES_PER_BLOCK // max(1, rows.shape[1] * vectors.shape[1]))
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            embeds = self._index.vectors_at(rows[block])
            np.einsum("bd,bkd->bk", vectors[block], embeds, out=scores[block])
        return scores

    def _vectors(self, questions: Sequence[str]) -> np.ndarray:
        """Vectors of the questions; those of the last ones are kept."""
        if self._last[0] != list(questions):
            self._last = (list(questions), self._encoder.encode(list(questions)))
        return self._last[1]
