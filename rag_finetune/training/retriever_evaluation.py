"""How good a retriever is: its questions searched for, exactly, among all passages."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.metrics.retrieval import KS, gold_hits, ndcg_at_k, retrieval_metrics
from rag_finetune.training.gathering import rank, world_size

VALUES_PER_BLOCK = 2**26  # inner products that are held at once


def retrieval_figures(
    question_encoder: TextEncoder,
    context_encoder: TextEncoder,
    questions: Dataset,
    passages: Dataset,
) -> dict[str, float]:
    """Encode questions and passages, search exactly, and measure.

    Of several processes each encodes its share; all get the same figures.

    Args:
        question_encoder: encodes the questions.
        context_encoder: encodes the passages.
        questions: as from `resolve_positives`; those without gold passages do not count.
        passages: columns id, document_id, title, text.

    Returns:
        recall@k, mrr@10, ndcg@10, as fractions, and n_examples.

    Raises:
        ValueError: no question has a gold passage.
    """
    known = [row for row, golds in enumerate(questions["positive_ids"][:]) if golds]
    if not known:
        raise ValueError(
            "No validation question has gold passages: give positive_ids, or positive_ctxs."
        )
    golds = [questions["positive_ids"][row] for row in known]
    vectors = _encoded(context_encoder, passages["text"][:], passages["title"][:])
    asked = [questions["question"][row] for row in known]
    found = exact_search(_encoded(question_encoder, asked, None), vectors, max(KS))
    names = list(zip(passages["id"][:], passages["document_id"][:], strict=True))
    pairs = [[names[row] for row in rows] for rows in found.tolist()]
    figures = retrieval_metrics(gold_hits(pairs, golds), KS)
    return figures | {"ndcg@10": ndcg_at_k(pairs, golds, 10), "n_examples": len(known)}


def exact_search(questions: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """The rows of the k largest inner products of each question.

    Args:
        questions: shape (batch, dim) float32.
        vectors: shape (n, dim) float32.
        k: how many; at most n are given.

    Returns:
        Shape (batch, min(k, n)) int64, the largest first.
    """
    passages = torch.from_numpy(vectors).T
    size = max(1, VALUES_PER_BLOCK // len(vectors))
    found = [
        torch.topk(part @ passages, min(k, len(vectors)), dim=1).indices
        for part in torch.from_numpy(questions).split(size)
    ]
    rows: np.ndarray = torch.cat(found).numpy()
    return rows


def _encoded(encoder: TextEncoder, texts: Sequence[str], titles: Any) -> np.ndarray:
    """Vectors of texts in their order; every process encodes each world_size-th of them."""
    share = slice(rank(), None, world_size())
    own = encoder.encode(list(texts[share]), None if titles is None else list(titles[share]))
    if world_size() == 1:
        return own
    vectors = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    for process, part in enumerate(gather_object([own])):
        vectors[process :: world_size()] = part
    return vectors
