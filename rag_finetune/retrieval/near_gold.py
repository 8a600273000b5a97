"""Which passages a search scores too near to the gold passage to be negatives."""

from collections.abc import Iterable, Sequence

import numpy as np

from rag_finetune.retrieval.searchers import TextSearcher


def near_gold(
    searchers: Iterable[TextSearcher],
    questions: Sequence[str],
    golds: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    *,
    margin: float | None = None,
    max_share: float | None = None,
) -> list[set[int]]:
    """Tell the candidates that any search scores too near, whichever search found them.

    Args:
        searchers: each holds all candidates against its own score of the best gold passage.
        questions: their texts.
        golds: rows of the gold passages of each question, at least one.
        candidates: rows of each question.
        margin: a score is at most the gold passage's less this; None for any.
        max_share: it is at most this share of the gold passage's; None for any.

    Returns:
        Of each question the rows that are too near; none where there is neither rule.
    """
    near: list[set[int]] = [set() for _ in questions]
    if margin is None and max_share is None:
        return near
    gold, found = _padded(golds), _padded(candidates)
    for searcher in searchers:
        # At once: a search by words goes through all passages for it.
        scores = searcher.scores_at(questions, np.hstack([gold, found]))
        of_gold, of_found = np.split(scores, [gold.shape[1]], axis=1)
        best = np.where(gold < 0, -np.inf, of_gold).max(axis=1)
        above = (of_found > ceilings(best, margin, max_share)[:, None]) & (found >= 0)
        for number, column in np.argwhere(above):
            near[number].add(int(found[number, column]))
    return near


def ceilings(best: np.ndarray, margin: float | None, max_share: float | None) -> np.ndarray:
    """The highest score that a negative may have.

    Args:
        best: the score of each question's best gold passage, shape (batch,).
        margin: see `near_gold`.
        max_share: see `near_gold`; of a score below 0 it lies as far below as it would above.

    Returns:
        Shape (batch,).
    """
    highest = best
    if margin is not None:
        highest = best - margin
    if max_share is not None:
        highest = np.minimum(highest, best - (1 - max_share) * np.abs(best))
    return highest


def _padded(lists: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows of each question, shape (questions, longest list) int64, padded with −1."""
    padded = np.full((len(lists), max(map(len, lists), default=0)), -1)
    for number, rows in enumerate(lists):
        padded[number, : len(rows)] = rows
    return padded
