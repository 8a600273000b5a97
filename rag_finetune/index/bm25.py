"""BM25 over the words of passages, by bm25s: the one place that imports it for scoring."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("lucene", "robertson", "atire", "bm25l", "bm25+")
VOCABULARY = "vocabulary.json"  # which LexicalIndex reads, for TF-IDF too


class Bm25:
    """Scores passages by the words that they share with a question.

    Source:
        Lù 2024, BM25S: orders of magnitude faster lexical search via eager sparse scoring,
        arXiv:2407.03618; the variants as in Kamphuis et al. 2020, Which BM25 do you mean?
    """

    def __init__(self, scorer: Any) -> None:
        """Take a bm25s.BM25 that was built or loaded."""
        self._scorer = scorer

    @classmethod
    def build(
        cls,
        word_ids: list[list[int]],
        vocabulary: dict[str, int],
        method: str = "lucene",
        k1: float = 1.5,
        b: float = 0.75,
    ) -> "Bm25":
        """Count and weigh the words of passages.

        Args:
            word_ids: the words of each passage, by their number in the vocabulary.
            vocabulary: words and their numbers, from 0 in the order of the dict.
            method: the variant of BM25, one of METHODS.
            k1: how much a word that is said again counts, 0 or more; 0: not at all.
            b: how much long passages are held back, from 0 to 1.

        Raises:
            ValueError: a setting is out of range.
        """
        if method not in METHODS:
            raise ValueError(f'method must be one of {", ".join(METHODS)}, found "{method}".')
        if not (0.0 <= k1 < np.inf and 0.0 <= b <= 1.0):
            raise ValueError(f"k1 must be 0 or more and b from 0 to 1, found {k1} and {b}.")
        scorer = _quiet_bm25s().BM25(method=method, k1=k1, b=b)
        scorer.index((word_ids, vocabulary), create_empty_token=False, show_progress=False)
        return cls(scorer)

    @classmethod
    def load(cls, folder: Path) -> "Bm25":
        """Map what `save` wrote.

        Raises:
            ValueError: files are damaged, or do not belong together.
            OSError: one is missing.
        """
        bm25s = _quiet_bm25s()
        try:
            scorer = bm25s.BM25.load(folder, mmap=True, load_vocab=False, show_progress=False)
        except (TypeError, EOFError) as error:
            raise ValueError(str(error)) from error
        scores = scorer.scores
        for name in ("data", "indices", "indptr"):
            scores[name] = np.asarray(scores[name])  # mapped as before, without memmap's overhead
        ends, count = scores["indptr"], len(scores["data"])
        if not len(ends) or ends[-1] != count or len(scores["indices"]) != count:
            raise ValueError("its arrays do not belong together")
        return cls(scorer)

    def save(self, folder: Path) -> None:
        """Write it, and the vocabulary, into a folder that exists."""
        self._scorer.save(folder, vocab_name=VOCABULARY, show_progress=False)

    @property
    def n_passages(self) -> int:
        """Number of passages."""
        return int(self._scorer.scores["num_docs"])

    @property
    def n_words(self) -> int:
        """Size of the vocabulary."""
        return len(self._scorer.scores["indptr"]) - 1

    def scores(self, word_ids: Sequence[int]) -> np.ndarray:
        """The scores of all passages for the words of a question.

        What BM25L and BM25+ give a passage for a word that it does not have is left out: it is the
        same for all passages, and 0 means no word in common, whatever the method.

        Args:
            word_ids: of the question's words, as often as it has them; at least one.

        Returns:
            Shape (n_passages,) float32.
        """
        scores: np.ndarray = self._scorer.get_scores_from_ids(list(word_ids))
        absent = self._scorer.nonoccurrence_array
        return scores if absent is None else scores - absent[list(word_ids)].sum()


def _quiet_bm25s() -> Any:
    """The module bm25s; on import it sets its logger to DEBUG."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s
