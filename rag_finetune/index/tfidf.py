"""TF-IDF over the words of passages: the cosine of their weighted counts with a question's."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from rag_finetune.files import write_json
from rag_finetune.index.bm25 import VOCABULARY

ARRAYS = ("data", "indices", "indptr")
IDF = "idf.npy"


class Tfidf:
    """Scores passages by the cosine of the angle between their words and a question's.

    A word that a text has c times weighs (1 + ln c) · (1 + ln((1 + N) / (1 + n))), where n of the
    N passages have it; texts are brought to length 1.

    Source:
        Salton and Buckley 1988, Term-weighting approaches in automatic text retrieval; idf smoothed
        as in scikit-learn.
    """

    def __init__(self, postings: Any, idf: np.ndarray) -> None:
        """Take the weights of words (rows) in passages (columns), and the idf of each word."""
        self._postings, self._idf = postings, idf

    @classmethod
    def build(cls, word_ids: list[list[int]], vocabulary: dict[str, int]) -> "Tfidf":
        """Count and weigh the words of passages; arguments as for `Bm25.build`."""
        from scipy.sparse import coo_array

        lengths = np.fromiter(map(len, word_ids), np.int64, len(word_ids))
        words = np.fromiter(chain.from_iterable(word_ids), np.int64, int(lengths.sum()))
        passages = np.repeat(np.arange(len(word_ids)), lengths)
        shape = (len(vocabulary), len(word_ids))
        postings = coo_array((np.ones(len(words)), (words, passages)), shape=shape).tocsr()
        frequencies = np.diff(postings.indptr)  # passages that have each word
        idf = 1.0 + np.log((1 + len(word_ids)) / (1 + frequencies))
        weights = (1.0 + np.log(postings.data)) * np.repeat(idf, frequencies)
        squares = np.bincount(postings.indices, weights**2, minlength=len(word_ids))
        postings.data = (weights / np.sqrt(squares)[postings.indices]).astype(np.float32)
        return cls(postings, idf.astype(np.float32))

    @classmethod
    def load(cls, folder: Path) -> "Tfidf":
        """Map what `save` wrote.

        Raises:
            ValueError: files are damaged, or do not belong together.
            OSError: one is missing.
        """
        from scipy.sparse import csr_array

        try:
            parts = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS]
            idf, shape = np.load(folder / IDF), np.load(folder / "shape.npy")
        except EOFError as error:
            raise ValueError(str(error)) from error
        return cls(csr_array(tuple(map(np.asarray, parts)), shape=tuple(shape.tolist())), idf)

    def save(self, folder: Path, vocabulary: dict[str, int]) -> None:
        """Write it, and the vocabulary, into a folder that exists."""
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self._postings, name))
        np.save(folder / IDF, self._idf)
        np.save(folder / "shape.npy", np.array(self._postings.shape))
        write_json(folder / VOCABULARY, vocabulary)

    @property
    def n_passages(self) -> int:
        """Number of passages."""
        return int(self._postings.shape[1])

    @property
    def n_words(self) -> int:
        """Size of the vocabulary."""
        return len(self._idf)

    def scores(self, word_ids: Sequence[int]) -> np.ndarray:
        """The cosines of all passages; argument and shape as for `Bm25.scores`.

        Words that no passage has are no part of the question's length.
        """
        from scipy.sparse import csr_array

        words, counts = np.unique(np.asarray(word_ids), return_counts=True)
        weights = (1.0 + np.log(counts)) * self._idf[words]
        weights = (weights / np.sqrt((weights**2).sum())).astype(np.float32)
        question = csr_array((weights, words, [0, len(words)]), shape=(1, self.n_words))
        scores: np.ndarray = (question @ self._postings).toarray()[0]
        return scores
