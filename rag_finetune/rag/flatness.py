"""Does the model choose among the passages it finds? The entropy of p(z|x), before any training."""

import re
from collections.abc import Sequence

import numpy as np

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.store import PassageIndex
from rag_finetune.metrics.health import retrieval_health
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.lengths import question_limit

SAMPLE = 200  # questions


def passage_entropy(rag: Rag, questions: Sequence[str]) -> float | None:
    """Mean entropy of p(z|x) over the retrieved passages, as a share of the most it could be.

    Args:
        rag: a model with its retriever.
        questions: a sample of questions; more than 200 are thinned out evenly.

    Returns:
        From 0, all on one passage, to 1, all passages alike; None for one passage a question.
    """
    assert rag.retriever is not None
    index, n_docs = rag.retriever.index, rag.retriever.clamp(rag.model.config.n_docs)
    encoder = TextEncoder(
        rag.model.question_encoder, rag.tokenizer.question_encoder, question_limit(rag, 128)
    )
    sample = [questions[row] for row in _spread(len(questions))]
    scores, rows = index.search(encoder.encode(sample), n_docs)
    found = [[str(row) if row >= 0 else "" for row in group] for group in rows.tolist()]
    return retrieval_health(found, scores, len(index)).get("doc_entropy")


def pseudo_questions(index: PassageIndex) -> list[str]:
    """First sentences of passages, for a sample where there are no questions.

    Each lies nearer to its own passage than a question would.
    """
    passages = index.passages_at(np.array(_spread(len(index))))
    return [re.split(r"(?<=[.!?])\s|(?<=[。！？])", p["text"])[0][:300] for p in passages]  # noqa: RUF001


def _spread(count: int) -> list[int]:
    """At most SAMPLE row numbers of `count`, spread evenly."""
    rows: list[int] = np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(int).tolist()
    return rows
