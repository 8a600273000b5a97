"""How good a retriever is: its questions searched for, exactly, among all passages."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.evaluation.measure import Evaluated, measure_answer_recall, measure_gold
from rag_finetune.metrics.retrieval import KS
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
        questions: as from `resolve_positives`; with positive_grades where gold has grades.
        passages: columns id, document_id, title, text.

    Returns:
        As `measure` gives them: what `gold_metrics` gives, over the questions whose gold passages
        are known, answer_recall@k, over those that have an answer, and n_examples, all of them.

    Raises:
        ValueError: no question has a gold passage.
    """
    if not any(questions["positive_ids"][:]):
        raise ValueError(
            "No validation question has gold passages: give positive_ids, or positive_ctxs."
        )
    texts = passages["text"][:]
    vectors = _encoded(context_encoder, texts, passages["title"][:])
    asked = _encoded(question_encoder, questions["question"][:], None)
    found = exact_search(asked, vectors, max(KS)).tolist()
    ids, documents = passages["id"][:], passages["document_id"][:]
    held = {
        row: {"id": ids[row], "document_id": documents[row], "text": texts[row]}
        for row in {row for rows in found for row in rows}
    }
    evaluated = [
        Evaluated(question, [held[row] for row in rows], [])
        for question, rows in zip(questions, found, strict=True)
    ]
    figures = measure_gold(evaluated, KS) | measure_answer_recall(evaluated, KS, None)
    return figures | {"n_examples": len(evaluated)}


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
