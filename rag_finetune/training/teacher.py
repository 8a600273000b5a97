"""Whom a retriever learns from, made ready once, before training begins."""

from collections.abc import Mapping
from typing import Any

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.retrieval.rerank import load_reranker
from rag_finetune.training.fused_teacher import FusedTeacher
from rag_finetune.training.reranker_data import pair_of
from rag_finetune.training.retriever_arguments import RetrieverTrainingArguments
from rag_finetune.training.retriever_data import RetrieverExamples
from rag_finetune.training.retriever_options import FUSED


def make_teacher(
    examples: RetrieverExamples,
    args: RetrieverTrainingArguments,
    encoders: Mapping[str, TextEncoder],
    temperature: float,
) -> str:
    """Let the teacher that the arguments name score what is trained on.

    Args:
        examples: get the teacher, or its scores.
        args: name it.
        encoders: question_encoder and context_encoder, as training begins.
        temperature: what inner products are divided by.

    Returns:
        What there is to say of it; empty for nothing.

    Raises:
        OSError: the folder or name cannot be read.
        ValueError: it cannot teach; see `FusedTeacher` and `load_reranker`.
    """
    if isinstance(examples.teacher, FusedTeacher) or args.teacher is not None:
        examples.teacher = None  # of a training before this one
    if args.teacher is None:
        if args.distillation_weight and examples.teacher is None and not examples.teacher_scores:
            raise ValueError(
                f"distillation_weight is {args.distillation_weight}, and no candidate of the "
                "training file has a teacher's score: give --teacher bm25, or a cross-encoder; or "
                "a file with cross_encoder_score, as `mine-negatives --reranker` writes it."
            )
        return ""
    if args.teacher != FUSED:
        score_candidates(examples, args.teacher, args.device)
        return ""
    for encoder in encoders.values():
        network: Any = encoder.model
        network.to(args.device)
    examples.teacher = FusedTeacher(
        examples,
        encoders["question_encoder"],
        encoders["context_encoder"],
        temperature,
        language=args.teacher_language,
        progress="Teacher" if args.process_index == 0 and not args.disable_tqdm else "",
    )
    return examples.teacher.describe()


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
