"""Search an index the way that was chosen, and what the words add to p(z|x)."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from rag_finetune.encoders.prefix import prefix_of
from rag_finetune.index.store import PassageIndex
from rag_finetune.retrieval.hybrid import DEPTH, Candidates, fuse
from rag_finetune.retrieval.way import Retrieval, choose_retrieval

BLOCK = 64  # questions whose candidates' vectors are held at once


class Searcher:
    """Finds passages of an index by vectors, by words, or by both.

    It may be used by several threads at once.

    Attributes:
        index: the opened index.
        retrieval: the way.
    """

    def __init__(self, index: PassageIndex, retrieval: Retrieval | None = None) -> None:
        """Open what the way needs.

        Args:
            index: the opened index.
            retrieval: from `choose_retrieval`; None for the index's own way.

        Raises:
            ValueError: the index lacks something, or a package is missing.
        """
        self.index = index
        self.retrieval = retrieval or choose_retrieval(index)
        if self.by_words:
            index.lexical(self.retrieval.kind)  # what is wrong with it shows now

    def describe(self) -> str:
        """How passages are found, in words."""
        return self.retrieval.describe()

    @property
    def by_words(self) -> bool:
        """Whether it needs the texts of questions."""
        return self.retrieval.by_words

    @property
    def prior_weight(self) -> float:
        """λ, what scores by words are multiplied by in p(z|x)."""
        if self.retrieval.prior or self.index.manifest.has_vectors:
            return self.retrieval.prior
        return 1.0

    def search(
        self, vectors: np.ndarray | None, questions: Sequence[str] | None, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best passages of each question.

        Args:
            vectors: of the questions, shape (batch, dim); None where only words are searched.
            questions: their texts; None where only vectors are searched.
            k: passages a question, from 1 to the number of passages.

        Returns:
            Scores, shape (batch, k) float32, by which they are ranked (inner products, scores by
            words, or of their fusion), and rows, shape (batch, k) int64; row −1 with score −inf
            where fewer were found.
        """
        if self.retrieval.way == "dense":
            assert vectors is not None
            return self.index.search(vectors, k)
        assert questions is not None
        if self.retrieval.way != "hybrid":
            return self.index.lexical(self.retrieval.kind).search(questions, k)
        assert vectors is not None
        fusion, weight = self.retrieval.fusion, self.retrieval.weight
        found = self.candidates(vectors, questions, k, with_scores=fusion == "weighted")
        return fuse(found, fusion, weight, k)

    def candidates(
        self, vectors: np.ndarray, questions: Sequence[str], k: int, *, with_scores: bool
    ) -> Candidates:
        """What a hybrid joins: the DEPTH best rows by vectors and by words, k where that is more.

        Args:
            vectors: as for `search`, as are questions and k.
            questions: their texts.
            k: passages a question.
            with_scores: also take both scores of all rows.
        """
        words = self.index.lexical(self.retrieval.kind)
        depth = min(max(DEPTH, k), len(self.index))
        found = Candidates(self.index.search(vectors, depth)[1], words.search(questions, depth)[1])
        if with_scores:
            found.products = self._products(vectors, found.rows)
            found.words = words.scores_at(questions, found.rows)
        return found

    def _products(self, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Inner products of questions with the vectors of rows, (batch, n); a block at once."""
        found = np.zeros(rows.shape, np.float32)
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            asked = np.asarray(vectors[block], np.float32)
            found[block] = np.einsum("bd,bkd->bk", asked, self.index.vectors_at(rows[block]))
        return found

    def prior_scores(self, questions: Sequence[str], rows: np.ndarray) -> np.ndarray | None:
        """What the words add to the doc_scores of passages: λ times their scores.

        Args:
            questions: their texts.
            rows: of their passages, shape (batch, n); −1 for none.

        Returns:
            Shape (batch, n) float32; None where they add nothing.
        """
        if not self.prior_weight:
            return None
        words = self.index.lexical(self.retrieval.kind)
        return np.float32(self.prior_weight) * words.scores_at(questions, rows)


def search_texts(tokenizer: PreTrainedTokenizerBase, input_ids: Any) -> list[str]:
    """Questions to search for by words, from the question encoder's tokens.

    Args:
        tokenizer: the question encoder's; a prefix that it adds is taken off again.
        input_ids: token ids, shape (batch, length).
    """
    texts: list[str] = tokenizer.batch_decode(input_ids, skip_special_tokens=True)
    prefix = prefix_of(tokenizer).split()
    if not prefix:
        return texts
    # Decoding may change case and put spaces around punctuation.
    pattern = r"\s*".join(re.escape(letter) for letter in "".join(prefix))
    return [re.sub(rf"\A\s*{pattern}\s*", "", text, flags=re.IGNORECASE) for text in texts]


def clamp_n_docs(n_docs: int, n_passages: int) -> int:
    """The number of passages to retrieve: n_docs, or all passages where there are fewer.

    Raises:
        ValueError: n_docs is below 1.
    """
    if n_docs < 1:
        raise ValueError(f"n_docs must be at least 1, found {n_docs}.")
    if n_docs > n_passages:
        warnings.warn(
            f"n_docs {n_docs} is more than the {n_passages} passages of the index: "
            f"using all {n_passages}.",
            stacklevel=2,
        )
    return min(n_docs, n_passages)
