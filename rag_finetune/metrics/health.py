"""Is the retriever still choosing? Figures that show a collapse before the answers do."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

FLAT = (
    0.95  # entropy from which passages weigh nearly alike, and the question encoder learns little
)
FALLEN = 0.5  # share of the variety of before below which retrieval is on its way to collapse
ENCODERS = ("question_encoder", "context_encoder")
# Losses that tell passages apart, and what they are called where they are advised.
ADVISED = {"contrastive": "contrastive (with gold passages)", "lsr": "lsr"}


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


def collapses(
    health: Mapping[str, float],
    n_questions: int,
    before: Mapping[str, float] | None = None,
    *,
    learning: Collection[str] = ("question_encoder", "generator"),
    losses: Collection[str] = ADVISED,
) -> dict[str, str]:
    """What is wrong with a retriever, in words, and what to try.

    Args:
        health: what `retrieval_health` gave.
        n_questions: over how many questions; under 20 nothing is said about variety.
        before: what it gave earlier in the run, over as many questions; None where it is the first.
        learning: the parts of the model that learn in this run.
        losses: those of `ADVISED` that the run could take.

    Returns:
        Messages by kind: "same first", "few", "fallen", "one" and "flat"; empty when nothing is
        wrong.
    """
    found = {}
    encoders = [name for name in ENCODERS if name in learning]
    slower = _slower(encoders, learning, losses)
    distinct, enough = health["distinct_passages"], n_questions >= 20
    if enough and health["top1_frequency"] > 0.5:
        found["same first"] = (
            f"{health['top1_frequency']:.0%} of the questions retrieve the same first passage: "
            f"the retriever may have collapsed. {slower}"
        )
    if enough and distinct < 0.05:
        found["few"] = (
            f"only {distinct:.1%} of the passages that could be retrieved are: "
            f"questions hardly differ for the retriever. {slower}"
        )
    elif enough and before is not None and distinct < FALLEN * before["distinct_passages"]:
        found["fallen"] = (
            f"the questions retrieve {distinct:.1%} of the passages that they could, and "
            f"{before['distinct_passages']:.1%} earlier in this run: the retriever tells them "
            f"apart less and less. {slower}"
        )
    entropy = health.get("doc_entropy", 0.5)
    if entropy < 0.01:
        remedies = ["assemble the model with a smaller --scale"]
        if encoders:
            remedies.append(f"lower {_rates(encoders)}")
            remedies.append(
                "let --retriever_loss with a --retriever_temperature above 1 move the others"
            )
        found["one"] = (
            "p(z|x) lies on one passage: the other passages get no gradient. The scores are too "
            f"large for this question encoder. {_one_of(remedies)}"
        )
    elif entropy > FLAT:
        remedies = ["assemble the model with a larger --scale"]
        names = " or ".join(ADVISED[name] for name in losses)
        if encoders and losses:
            remedies.append(
                f"add a loss that tells passages apart: --retriever_loss {names}, with a "
                "--retriever_temperature below 1"
            )
        found["flat"] = (
            f"p(z|x) is nearly flat ({entropy:.3f} of at most 1): all passages weigh alike"
            f"{', and the encoders learn little' if encoders else ''}. {_one_of(remedies)}"
        )
    return found


def _slower(encoders: Sequence[str], learning: Collection[str], losses: Collection[str]) -> str:
    """What to try where questions are told apart too little."""
    if not encoders:
        return (
            "Neither encoder learns in this run: teach them with `rag-finetune train-retriever`, "
            "or take one that was made for such questions."
        )
    remedies = [f"lower {_rates(encoders)}"]
    if len(encoders) < len(learning):
        remedies.append(f"leave {' and '.join(encoders)} out of --trainable")
    if "contrastive" in losses:
        named = ADVISED["contrastive"]
        remedies.append(f"hold questions apart with --retriever_loss {named}")
    return _one_of(remedies)


def _rates(encoders: Sequence[str]) -> str:
    """The flags of their learning rates."""
    return " and ".join(f"--learning_rate_{name}" for name in encoders)


def _one_of(remedies: Sequence[str]) -> str:
    """A sentence that offers them."""
    text = ", ".join(remedies[:-1]) + (" or " if remedies[1:] else "") + remedies[-1]
    return f"{text[0].upper()}{text[1:]}."


def _entropy(scores: np.ndarray) -> np.ndarray:
    """Entropy in nats of softmax(scores) of each row."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    probs = np.exp(log_probs)
    entropy: np.ndarray = -np.sum(
        probs * np.where(probs > 0, log_probs, 0.0), axis=1, where=probs > 0
    )
    return entropy
