"""Two ranked lists of passages for each question joined into one."""

from dataclasses import dataclass

import numpy as np

RRF_K = 60  # of Cormack et al.
DEPTH = 100  # rows of each list that are joined, at least


@dataclass
class Candidates:
    """What vectors and words each found for a batch of questions.

    Attributes:
        near: rows by vectors, best first, shape (batch, m); −1 for none.
        alike: rows by words, likewise, shape (batch, n).
        products: inner products of all of them, shape (batch, m + n); None where not asked for.
        words: their scores by words, likewise.
    """

    near: np.ndarray
    alike: np.ndarray
    products: np.ndarray | None = None
    words: np.ndarray | None = None

    @property
    def rows(self) -> np.ndarray:
        """All rows, shape (batch, m + n)."""
        return np.concatenate([self.near, self.alike], axis=1)


def fuse(
    candidates: Candidates, fusion: str, weight: float, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Join what vectors and words found.

    Args:
        candidates: both lists; with their scores for "weighted".
        fusion: "rrf" or "weighted".
        weight: share of the words, from 0 to 1.
        k: rows to return of each question.

    Returns:
        As `reciprocal_rank_fusion`.
    """
    if fusion == "rrf":
        return reciprocal_rank_fusion(candidates.near, candidates.alike, k, weight)
    assert candidates.products is not None and candidates.words is not None
    return weighted_fusion(candidates.rows, candidates.products, candidates.words, k, weight)


def reciprocal_rank_fusion(
    first: np.ndarray, second: np.ndarray, k: int, weight: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Join lists by ranks: a row scores Σ w / (60 + rank) over the lists that it is in.

    Args:
        first: rows, best first, shape (batch, m); −1 for none.
        second: likewise, shape (batch, n).
        k: rows to return of each question.
        weight: w of the second list; that of the first is 1 − weight.

    Returns:
        Scores, shape (batch, k) float32, and rows, shape (batch, k) int64, best first, of equal
        scores (two rows that change places from list to list have one) that which is higher in the
        first list; row −1 with score −inf where the lists have fewer.

    Source:
        Cormack et al. 2009, Reciprocal rank fusion outperforms Condorcet and individual rank
        learning methods.
    """
    ranks = [1.0 / (RRF_K + 1 + np.arange(rows.shape[1])) for rows in (first, second)]
    parts = np.concatenate([(1.0 - weight) * ranks[0], weight * ranks[1]])
    both = np.concatenate([first, second], axis=1)  # (batch, m + n)
    scores, found = _empty(len(both), k)
    for question, rows in enumerate(both):
        distinct, at, place = np.unique(rows[rows >= 0], return_index=True, return_inverse=True)
        sums = np.bincount(place, parts[rows >= 0], minlength=len(distinct))
        order = np.argsort(at)  # as they come in the lists
        _fill(scores[question], found[question], sums[order], distinct[order])
    return scores, found


def weighted_fusion(
    rows: np.ndarray, first: np.ndarray, second: np.ndarray, k: int, weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Join two scores of the same rows: (1 − w) · first + w · second, each brought to 0 … 1.

    Scores are normalised for each question by the least and the greatest of its rows; where all
    are equal they count nothing.

    Args:
        rows: candidates, shape (batch, m); −1 for none; a row may occur twice.
        first: their scores by one measure, shape (batch, m).
        second: likewise by another.
        k: rows to return of each question.
        weight: w.

    Returns:
        As `reciprocal_rank_fusion`; of equal scores the lower row comes first.
    """
    scores, found = _empty(len(rows), k)
    for question, candidates in enumerate(rows):
        distinct, at = np.unique(candidates, return_index=True)
        distinct, at = distinct[distinct >= 0], at[distinct >= 0]
        if len(distinct):
            sums = (1.0 - weight) * _normalised(first[question, at])
            sums = sums + weight * _normalised(second[question, at])
            _fill(scores[question], found[question], sums, distinct)
    return scores, found


def _normalised(scores: np.ndarray) -> np.ndarray:
    """Scores from 0 to 1."""
    scores = scores.astype(np.float64)
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.zeros(len(scores))


def _empty(batch: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of nothing, shape (batch, k)."""
    return np.full((batch, k), -np.inf, np.float32), np.full((batch, k), -1, np.int64)


def _fill(scores: np.ndarray, rows: np.ndarray, sums: np.ndarray, candidates: np.ndarray) -> None:
    """Write the best candidates, of equal ones the first, into scores and rows, shape (k,)."""
    best = np.argsort(-sums, kind="stable")[: len(rows)]
    scores[: len(best)], rows[: len(best)] = sums[best], candidates[best]
