"""Any search, its best passages put in order by a cross-encoder."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rag_finetune.retrieval.rerank import Reranker
from rag_finetune.retrieval.way import RERANK_TOP


class RerankedSearcher:
    """A searcher whose first passages a cross-encoder puts in order.

    What the searcher is otherwise, such as `index` and `retrieval`, this is too. p(z|x) stays the
    softmax of what it was over the passages that are kept: the cross-encoder only chooses them.

    Attributes:
        by_words: True: it needs the texts of questions.
    """

    by_words = True

    def __init__(self, searcher: Any, reranker: Reranker, top: int = RERANK_TOP) -> None:
        """Join them.

        Args:
            searcher: finds the passages.
            reranker: the cross-encoder.
            top: so many of each question are looked at.

        Raises:
            ValueError: `top` is below 2.
        """
        if top < 2:
            raise ValueError(f"rerank_top must be at least 2, found {top}: one has no order.")
        self._searcher, self.reranker, self.top = searcher, reranker, top

    def __getattr__(self, name: str) -> Any:
        """Anything else is the searcher's."""
        return getattr(self._searcher, name)

    def describe(self) -> str:
        """How passages are found, in words."""
        return f"{self._searcher.describe()}, the first {self.top} ordered by {self.reranker.name}"

    def search(
        self, vectors: np.ndarray | None, questions: Sequence[str] | None, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best passages of each question.

        Args:
            vectors: of the questions, shape (batch, dim); None where only words are searched.
            questions: their texts.
            k: passages a question; those past `top` follow as they were found.

        Returns:
            Scores, shape (batch, k) float32: the cross-encoder's logits, and of passages that it
            did not look at, each 1 below the one before; and rows, shape (batch, k) int64; row −1
            with score −inf where fewer were found.
        """
        assert questions is not None
        depth = min(max(k, self.top), len(self.index))
        _, rows = self._searcher.search(vectors, questions, depth)
        heads = rows[:, : self.top]
        found = self.index.passages_at(heads)
        width = heads.shape[1]
        passages = [found[start : start + width] for start in range(0, len(found), width)]
        scores = np.full(rows.shape, -np.inf, np.float32)
        for number, order in enumerate(self.reranker.order(questions, passages, self.top)):
            logits = [passages[number][place].get("reranker_score", -np.inf) for place in order]
            scores[number, :width] = logits
            rows[number, :width] = heads[number][order]
        for place in range(width, rows.shape[1]):
            scores[:, place] = np.where(rows[:, place] < 0, -np.inf, scores[:, place - 1] - 1)
        return scores[:, :k], rows[:, :k]
