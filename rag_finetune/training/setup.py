"""What a trainer does to a model before training, and to its rows after evaluating."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from torch import nn

from rag_finetune.data.qa import TrainingQuestions
from rag_finetune.evaluation.evaluate import Evaluated
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.generation import question_limit, too_long, warn_about_long_questions
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.options import PARTS


def configure_model(rag: Rag, args: RagTrainingArguments) -> None:
    """Freeze what does not train, and set n_docs and lengths.

    Raises:
        ValueError: a length is more than the generator can take.
    """
    config = rag.model.config
    if args.n_docs is not None and rag.retriever is not None:
        config.n_docs = rag.retriever.n_docs = args.n_docs = rag.retriever.clamp(args.n_docs)
    if args.max_combined_length is not None:
        config.max_combined_length = args.max_combined_length
    positions = getattr(config.generator, "max_position_embeddings", None)
    longest = max(config.max_combined_length, args.max_target_length)
    if positions is not None and longest > positions:
        raise ValueError(
            f"max_combined_length {config.max_combined_length} and max_target_length "
            f"{args.max_target_length} must be at most {positions}, the generator's positions."
        )
    config.do_marginalize = False  # the loss marginalises
    settings = rag.model.rag.generator.generation_config
    if settings.max_length is None and settings.max_new_tokens is None:
        settings.max_length = args.max_target_length
    for name in PARTS:
        getattr(rag.model.rag, name).requires_grad_(name in args.trainable)


def check_lengths(rag: Rag, items: TrainingQuestions, args: RagTrainingArguments) -> None:
    """Say what will be cut, and refuse what cannot be read, before training.

    Args:
        rag: the model, its lengths set.
        items: the questions to train or validate on.
        args: gives the lengths.

    Raises:
        ValueError: a question leaves no room for a passage.
    """
    texts = list(items.questions["question"])
    warn_about_long_questions(rag, texts, args.max_question_length)
    first_only = slice(1 if items.target == "first" else None)
    answers = [text for golds in items.questions["answers"] for text in golds[first_only]]
    rows = too_long(rag.tokenizer.generator, answers, args.max_target_length - 1)
    if rows:
        warnings.warn(
            f"{len(rows):,} of {len(answers):,} answers are longer than max_target_length "
            f"{args.max_target_length} and lose their end; the first: {answers[rows[0]][:60]!r}.",
            stacklevel=3,
        )
    limit = question_limit(rag, args.max_question_length)
    tails = [rag.model.config.doc_sep + text for text in texts]
    for row in too_long(rag.tokenizer.generator, tails, rag.model.config.max_combined_length):
        asked = rag.tokenizer.question_encoder(texts[row], truncation=True, max_length=limit)
        rag.retriever.require_room(rag.retriever.question_texts([asked["input_ids"]]))  # type: ignore[union-attr]


def checkpointable(parts: Mapping[str, Any], trainable: Sequence[str]) -> list[Any]:
    """The trainable sub-models that can recompute activations.

    Transformers 5.23 refuses it for the RAG wrapper and for DPR, not for the BERT within.
    """
    modules = {**parts, "question_encoder": parts["question_encoder"].question_encoder.bert_model}
    return [modules[name] for name in trainable]


def split_groups(
    groups: Sequence[dict[str, Any]], ours: set[int], learning_rate: float
) -> list[dict[str, Any]]:
    """Optimiser groups with the parameters whose id is in `ours` in groups of their own rate."""
    split = []
    for group in groups:
        for inside in (False, True):
            params = [p for p in group["params"] if (id(p) in ours) is inside]
            rate = learning_rate if inside else group["lr"]
            if params:
                split.append({**group, "params": params, "lr": rate})
    return split


def gather_rows(evaluated: Mapping[int, Evaluated], count: int) -> list[Evaluated]:
    """Rows 0 to count − 1 from all processes, each once, in order.

    Processes of a distributed run repeat some rows to be even; the number of a row tells.
    """
    rows = dict(gather_object(list(evaluated.items())))
    return [rows[row] for row in range(count)]


def padded_array(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Token ids of all rows, shape (rows, longest), padded with −100."""
    longest = max(map(len, rows), default=0)
    return np.array([[*row, *[-100] * (longest - len(row))] for row in rows], dtype=np.int64)


def tied_names(model: nn.Module) -> set[str]:
    """Names of the parameters that share their memory with another."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter.data_ptr(), []).append(name)
    return {name for group in names.values() if len(group) > 1 for name in group}
