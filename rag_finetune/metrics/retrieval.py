"""How good the retrieved passages are: against gold ids, and by whether they hold an answer."""

from collections.abc import Collection, Sequence

from rag_finetune.metrics.answers import has_answer
from rag_finetune.metrics.ranking import (
    check_lengths,
    gold_recall_at_k,
    mean_average_precision,
    mean_reciprocal_rank,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

KS = (1, 5, 10, 20)


def gold_hits(
    retrieved: Sequence[Sequence[tuple[str, str]]], positive_ids: Sequence[Collection[str]]
) -> list[list[bool]]:
    """Mark the retrieved passages that are gold, or pieces of a gold document.

    Args:
        retrieved: for each question pairs (id, document_id), best first; lengths may differ.
        positive_ids: for each question the ids of its gold passages or documents. A question
            without any gets no hit: leave such questions out before figures are taken.

    Returns:
        For each question one flag a passage, in the same order.

    Raises:
        ValueError: the two differ in length.
    """
    check_lengths("retrieved", retrieved, "positive_ids", positive_ids)
    return [
        [not gold.isdisjoint(names) for names in passages]
        for passages, gold in zip(retrieved, map(frozenset, positive_ids), strict=True)
    ]


def retrieval_metrics(hits: Sequence[Sequence[bool]], ks: Sequence[int] = KS) -> dict[str, float]:
    """Take recall and precision at several depths, and the mean reciprocal rank at 10.

    Args:
        hits: for each question one flag a passage, best first.
        ks: the depths of recall and precision.

    Returns:
        `recall@k` and `precision@k` for each k, and `mrr@10`, as fractions.

    Raises:
        ValueError: there is no question, or a depth is below 1.
    """
    recalls = {f"recall@{k}": recall_at_k(hits, k) for k in ks}
    precisions = {f"precision@{k}": precision_at_k(hits, k) for k in ks}
    return recalls | precisions | {"mrr@10": mean_reciprocal_rank(hits, k=10)}


def gold_metrics(
    retrieved: Sequence[Sequence[tuple[str, str]]],
    positive_ids: Sequence[Collection[str]],
    ks: Sequence[int] = KS,
) -> dict[str, float]:
    """Take every figure of retrieval that gold passages allow.

    Args:
        retrieved: for each question pairs (id, document_id), best first; lengths may differ.
        positive_ids: see `ndcg_at_k`.
        ks: the depths of recall and precision.

    Returns:
        As fractions, with trec_eval's names in brackets: `recall@k` (success_k), `precision@k`
        (P_k), `gold_recall@k` (recall_k), `mrr@10` (recip_rank of ten passages), `ndcg@10`
        (ndcg_cut_10) and `map@20` (map_cut_20).

    Raises:
        ValueError: see `ndcg_at_k`.
    """
    metrics = retrieval_metrics(gold_hits(retrieved, positive_ids), ks)
    metrics |= {f"gold_recall@{k}": gold_recall_at_k(retrieved, positive_ids, k) for k in ks}
    metrics["ndcg@10"] = ndcg_at_k(retrieved, positive_ids, 10)
    metrics["map@20"] = mean_average_precision(retrieved, positive_ids, 20)
    return metrics


def answer_ranks(
    texts_per_question: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]
) -> list[list[bool]]:
    """Mark the retrieved passages that hold an answer.

    Args:
        texts_per_question: for each question the texts of its passages, best first.
        answers: for each question its gold answers.

    Returns:
        For each question one flag a passage, as `recall_at_k` takes them.

    Raises:
        ValueError: the two differ in length.
    """
    check_lengths("texts_per_question", texts_per_question, "answers", answers)
    return [
        [has_answer(text, golds) for text in texts]
        for texts, golds in zip(texts_per_question, answers, strict=True)
    ]


def answer_recall(
    texts_per_question: Sequence[Sequence[str]],
    answers: Sequence[Sequence[str]],
    ks: Sequence[int] = KS,
) -> dict[str, float]:
    """Share of questions with an answer in their first k passages, at several depths.

    Args:
        texts_per_question: for each question the texts of its passages, best first.
        answers: for each question its gold answers.
        ks: the depths.

    Returns:
        `answer_recall@k` for each k, as fractions.

    Raises:
        ValueError: the two differ in length, there is no question, or a depth is below 1.
    """
    hits = answer_ranks(texts_per_question, answers)
    return {f"answer_recall@{k}": recall_at_k(hits, k) for k in ks}
