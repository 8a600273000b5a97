"""Is the retriever still choosing? Figures that show a collapse before the answers do."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np


def retrieval_health(
    retrieved: Sequence[Sequence[str]], doc_scores: np.ndarray, n_passages: int
) -> dict[str, float]:
    """How varied retrieval is over a set of questions.

    Args:
        retrieved: ids of the passages of each of N questions, best first; "" for no passage.
        doc_scores: their inner products, shape (N, n_docs); −inf for no passage.
        n_passages: size of the index.

    Returns:
        distinct_passages: distinct passages retrieved, as a share of the most there could be
        (N · n_docs, or all passages); top1_frequency: share of the questions whose first passage
        is the commonest first passage; doc_entropy: mean entropy of p(z|x) over ln n_docs, 1 when
        flat and 0 when on one passage (absent for one passage a question). Fractions 0–1.

    Raises:
        ValueError: there are no questions.
    """
    if not len(retrieved):
        raise ValueError("retrieval_health needs at least one question, found none.")
    scores = np.asarray(doc_scores, dtype=np.float64)
    distinct = {passage for passages in retrieved for passage in passages if passage}
    first = Counter(passages[0] for passages in retrieved if passages[0])
    health = {
        "distinct_passages": len(distinct) / min(scores.size, n_passages),
        "top1_frequency": max(first.values(), default=0) / len(retrieved),
    }
    if scores.shape[1] > 1:
        health["doc_entropy"] = float(_entropy(scores).mean()) / math.log(scores.shape[1])
    return health


def collapse_warnings(health: dict[str, float], n_questions: int) -> list[str]:
    """What is wrong with a retriever, in words, and what to try; empty when nothing is.

    Args:
        health: what `retrieval_health` gave.
        n_questions: over how many questions; under 20 nothing is said about variety.
    """
    found = []
    if n_questions >= 20 and health["top1_frequency"] > 0.5:
        found.append(
            f"{health['top1_frequency']:.0%} of the questions retrieve the same first passage: "
            "the question encoder may have collapsed. Lower --learning_rate_question_encoder, or "
            "leave question_encoder out of --trainable."
        )
    if n_questions >= 20 and health["distinct_passages"] < 0.05:
        found.append(
            f"only {health['distinct_passages']:.1%} of the passages that could be retrieved are: "
            "questions hardly differ for the question encoder. Lower "
            "--learning_rate_question_encoder."
        )
    if health.get("doc_entropy", 0.5) < 0.01:
        found.append(
            "p(z|x) lies on one passage: the other passages get no gradient. The scores are too "
            "large for this question encoder."
        )
    return found


def _entropy(scores: np.ndarray) -> np.ndarray:
    """Entropy in nats of softmax(scores) of each row."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    probs = np.exp(log_probs)
    entropy: np.ndarray = -np.sum(
        probs * np.where(probs > 0, log_probs, 0.0), axis=1, where=probs > 0
    )
    return entropy
