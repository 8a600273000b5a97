"""How early a ranking has what is relevant: the measures of trec_eval."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import log2


def recall_at_k(hits: Sequence[Sequence[bool]], k: int) -> float:
    """Share of questions with a hit among their first `k` passages.

    Args:
        hits: for each question one flag a passage, best first; may be shorter than `k`.
        k: how many passages count, at least 1.

    Returns:
        A fraction.

    Raises:
        ValueError: there is no question, or `k` is below 1.
    """
    _check_hits(hits, k)
    return sum(any(flags[:k]) for flags in hits) / len(hits)


def mean_reciprocal_rank(hits: Sequence[Sequence[bool]], k: int = 10) -> float:
    """Mean over questions of 1 / rank of the first hit, 0 where the first `k` hold none.

    Args:
        hits: for each question one flag a passage, best first; may be shorter than `k`.
        k: how many passages count, at least 1.

    Returns:
        A fraction.

    Raises:
        ValueError: there is no question, or `k` is below 1.
    """
    _check_hits(hits, k)
    first_ranks = (next((i for i, hit in enumerate(flags[:k], 1) if hit), None) for flags in hits)
    return sum(1 / rank for rank in first_ranks if rank) / len(hits)


def precision_at_k(hits: Sequence[Sequence[bool]], k: int) -> float:
    """Mean over questions of the share of hits among the first `k` passages.

    Args:
        hits: for each question one flag a passage, best first; what is missing of `k` is no hit.
        k: how many passages count, at least 1.

    Returns:
        A fraction.

    Raises:
        ValueError: there is no question, or `k` is below 1.
    """
    _check_hits(hits, k)
    return sum(sum(map(bool, flags[:k])) / k for flags in hits) / len(hits)


def gold_recall_at_k(
    retrieved: Sequence[Sequence[tuple[str, str]]], positive_ids: Sequence[Collection[str]], k: int
) -> float:
    """Mean over questions of the share of their gold ids found in the first `k` passages.

    With one gold id a question this is `recall_at_k`.

    Args:
        retrieved: for each question pairs (id, document_id), best first; lengths may differ.
        positive_ids: for each question the ids of its gold passages or documents, at least one.
        k: how many passages count, at least 1.

    Returns:
        A fraction.

    Raises:
        ValueError: see `ndcg_at_k`.
    """
    _check_golds(retrieved, positive_ids, k)
    shares = (
        sum(len(found) for _, found in _first_finds(passages[:k], gold)) / len(gold)
        for passages, gold in zip(retrieved, map(_grades, positive_ids), strict=True)
    )
    return sum(shares) / len(retrieved)


def ndcg_at_k(
    retrieved: Sequence[Sequence[tuple[str, str]]],
    positive_ids: Sequence[Collection[str]],
    k: int = 10,
) -> float:
    """Mean normalised discounted cumulative gain: were all gold passages found, and early?

    A gold id gains its grade / log2(rank + 1) where it is first found, as a passage or as a piece
    of the document that it names; further pieces of the same document gain nothing. The sum is
    divided by that of a ranking that has the gold ids first, the highest grades before others.

    Args:
        retrieved: for each question pairs (id, document_id), best first; lengths may differ.
        positive_ids: for each question the ids of its gold passages or documents, at least one; a
            mapping gives each its grade, above 0, otherwise all have grade 1.
        k: how many passages count, at least 1.

    Returns:
        A fraction.

    Raises:
        ValueError: the two differ in length, there is no question, one has no gold id, or `k` is
            below 1.

    Source:
        Järvelin and Kekäläinen 2002, doi:10.1145/582415.582418; the gain is the grade itself, as in
        trec_eval's ndcg_cut.
    """
    _check_golds(retrieved, positive_ids, k)
    total = 0.0
    for passages, gold in zip(retrieved, map(_grades, positive_ids), strict=True):
        best = sorted(gold.values(), reverse=True)[:k]
        ideal = sum(grade / log2(rank + 1) for rank, grade in enumerate(best, start=1))
        for rank, found in _first_finds(passages[:k], gold):
            total += max(gold[name] for name in found) / log2(rank + 1) / ideal
    return total / len(retrieved)


def mean_average_precision(
    retrieved: Sequence[Sequence[tuple[str, str]]],
    positive_ids: Sequence[Collection[str]],
    k: int | None = None,
) -> float:
    """Mean over questions of the precision where each of their gold ids is found, averaged.

    Precision at a rank is the share of passages up to it that bring a gold id not yet found. A
    gold id that is not found counts 0.

    Args:
        retrieved: for each question pairs (id, document_id), best first; lengths may differ.
        positive_ids: for each question the ids of its gold passages or documents, at least one.
        k: how many passages count, at least 1; None for all.

    Returns:
        A fraction.

    Raises:
        ValueError: see `ndcg_at_k`.
    """
    _check_golds(retrieved, positive_ids, 1 if k is None else k)
    total = 0.0
    for passages, gold in zip(retrieved, map(_grades, positive_ids), strict=True):
        finds = enumerate(_first_finds(passages[:k], gold), start=1)
        total += sum(len(names) * found / rank for found, (rank, names) in finds) / len(gold)
    return total / len(retrieved)


def _grades(gold: Collection[str]) -> Mapping[str, float]:
    """The grade of each gold id."""
    return gold if isinstance(gold, Mapping) else dict.fromkeys(gold, 1.0)


def _first_finds(
    passages: Sequence[tuple[str, str]], gold: Collection[str]
) -> Iterator[tuple[int, set[str]]]:
    """Yield each rank, from 1, that brings gold ids not found before, with these ids."""
    missing = set(gold)
    for rank, names in enumerate(passages, start=1):
        found = missing.intersection(names)
        if found:
            missing -= found
            yield rank, found


def check_lengths(name: str, values: Sequence, other_name: str, others: Sequence) -> None:
    """Raise where two lists are not about the same questions.

    Raises:
        ValueError: they differ in length.
    """
    if len(values) != len(others):
        raise ValueError(
            f"{name} and {other_name} must have one entry a question, found {len(values)} and "
            f"{len(others)}. Take both from the same questions."
        )


def _check_hits(hits: Sequence[Sequence], k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}. Write 1 for the best passage alone.")
    if not len(hits):
        raise ValueError("hits must hold at least one question, found none.")


def _check_golds(
    retrieved: Sequence[Sequence], positive_ids: Sequence[Collection[str]], k: int
) -> None:
    check_lengths("retrieved", retrieved, "positive_ids", positive_ids)
    _check_hits(retrieved, k)
    if not all(positive_ids):
        raise ValueError("positive_ids must name at least one gold passage a question, found none.")
