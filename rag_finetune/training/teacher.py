"""A cross-encoder's scores of the candidates of training, taken once, before it begins."""

from typing import Any

from rag_finetune.retrieval.rerank import load_reranker
from rag_finetune.training.reranker_data import pair_of
from rag_finetune.training.retriever_data import RetrieverExamples


def score_candidates(
    examples: RetrieverExamples, teacher: str, device: Any, max_length: int | None = None
) -> None:
    """Let a cross-encoder score each question with its positives and hard negatives.

    The scores are those that `mine-negatives --reranker` writes for the same pairs.

    Args:
        examples: what is trained on; its `teacher_scores` of these pairs are replaced.
        teacher: folder or Hub name of a cross-encoder.
        device: where it runs.
        max_length: tokens of a pair; None for the model's most, up to 512.

    Raises:
        OSError: the folder or name cannot be read.
        ValueError: it is no cross-encoder; see `load_reranker`.
    """
    reranker = load_reranker(teacher, max_length=max_length)
    network: Any = reranker.model
    network.to(device)
    keys = [
        (row, passage)
        for row in range(len(examples))
        for passage in (*examples.positives[row], *examples.negatives[row])
    ]
    scores = reranker.score([pair_of(examples, *key) for key in keys], progress="Teacher")
    examples.teacher_scores |= dict(zip(keys, scores.tolist(), strict=True))
