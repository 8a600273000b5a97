"""What a trainer does to a model before training, and to its rows after evaluating."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from transformers import DPRContextEncoder, DPRQuestionEncoder

from rag_finetune.data.cloze import is_cloze
from rag_finetune.data.qa import TrainingQuestions
from rag_finetune.encoders.pooled import PooledEncoder
from rag_finetune.evaluation.measure import Evaluated
from rag_finetune.metrics.retrieval import KS, gold_metrics
from rag_finetune.rag.causal_collator import require_short
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.lengths import check_question_lengths, too_long
from rag_finetune.rag.prompt_retriever import PromptRetriever
from rag_finetune.training.arguments import ANSWER_METRICS, RagTrainingArguments
from rag_finetune.training.options import PARTS

FEW = 0.01  # the share of questions that may look as if they were made
OF_GOLD = {name.partition("@")[0] for name in gold_metrics([[]], [["any"]])}


def configure_model(rag: Rag, args: RagTrainingArguments) -> None:
    """Freeze what does not train, and set n_docs and lengths.

    Raises:
        ValueError: a length is more than the generator can take.
    """
    config = rag.model.config
    if rag.retriever is not None and not rag.retriever.index.manifest.has_vectors:
        _freeze_question_encoder(args)
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
    for flag in ("passage_loss_weight", "doubt_weight"):
        if config.n_docs == 1 and getattr(args, flag):
            warnings.warn(
                f"--{flag} does nothing where one passage is read: it weighs passages against "
                "each other. Raise --n_docs.",
                stacklevel=3,
            )
    config.do_marginalize = False  # the loss marginalises
    settings = rag.model.rag.generator.generation_config
    of_answer = not isinstance(rag.retriever, PromptRetriever)  # else prompts count in max_length
    is_short = (
        settings.max_new_tokens is None and (settings.max_length or 0) < args.max_target_length
    )
    if of_answer and is_short:
        settings.max_length = args.max_target_length  # what was learnt can be said
    for name in PARTS:
        for parameter in getattr(rag.model.rag, name).parameters():
            if parameter.is_floating_point():  # not what is kept in four bits
                parameter.requires_grad_(name in args.trainable)


def _freeze_question_encoder(args: RagTrainingArguments) -> None:
    """Leave the question encoder out of what learns: without vectors nothing asks it.

    Raises:
        ValueError: nothing else shall learn, or the context encoder shall.
    """
    if "context_encoder" in args.trainable:
        raise ValueError(
            "The index holds no vectors, and so has no context encoder that could learn. Give an "
            "index with vectors, or leave context_encoder out of --trainable."
        )
    if "question_encoder" not in args.trainable:
        return
    args.trainable = [name for name in args.trainable if name != "question_encoder"]
    if not args.trainable or args.learning_rate_question_encoder is not None:
        raise ValueError(
            "The index holds no vectors: the question encoder has no part in p(z|x) and cannot "
            "learn. Give an index with vectors, or --trainable generator without "
            "--learning_rate_question_encoder."
        )
    warnings.warn(
        "The index holds no vectors: p(z|x) is by words, and the question encoder stays as it is.",
        stacklevel=4,
    )


def check_questions(
    rag: Rag,
    train: TrainingQuestions | None,
    evaluated: Mapping[str, TrainingQuestions],
    args: RagTrainingArguments,
) -> None:
    """Check before training what would show only in the middle of it.

    Args:
        rag: the model, its lengths set.
        train: what is trained on.
        evaluated: what is evaluated on, by name.
        args: the arguments.

    Raises:
        ValueError: a question leaves no room for a passage, or metric_for_best_model is none of
            the figures that an evaluation reports.
    """
    for items in ([] if train is None else [train], evaluated.values()):
        for questions in items:
            check_lengths(rag, questions, args)
    if train is not None and "generator" in args.trainable:
        warn_of_cloze(train.questions)
    if train is None or not evaluated or args.eval_strategy == "no":
        return
    metric = str(args.metric_for_best_model).removeprefix("eval_")
    reported = [
        f"{name}_{figure}" if name else figure
        for name, items in evaluated.items()
        for figure in reported_metrics(rag, items, args)
    ]
    if metric not in reported:
        hint = ""
        if metric.partition("@")[0] in OF_GOLD:
            hint = " Those of retrieval need gold passages in the validation questions."
        names = ", ".join(sorted(reported))
        raise ValueError(f'metric_for_best_model must be one of {names}; found "{metric}".{hint}')


def reported_metrics(rag: Rag, items: TrainingQuestions, args: RagTrainingArguments) -> list[str]:
    """The figures that an evaluation of these questions will report."""
    n_docs = rag.retriever.n_docs  # type: ignore[union-attr]
    ks = sorted({*KS, n_docs})
    names = ["loss", "distinct_passages", "top1_frequency", "n_examples"]
    names += ["doc_entropy"] if n_docs > 1 else []
    if any(text.strip() for golds in items.questions["answers"][:] for text in golds):
        names += [f"answer_recall@{k}" for k in ks]
    names += ANSWER_METRICS if args.predict_with_generate else []
    if any(items.questions["positive_ids"][:]):
        names += gold_metrics([[]], [["any"]], ks)  # their names
    return names


def check_lengths(rag: Rag, items: TrainingQuestions, args: RagTrainingArguments) -> None:
    """Say what will be cut, and refuse what cannot be read, before training.

    Args:
        rag: the model, its lengths set.
        items: the questions to train or validate on.
        args: gives the lengths.

    Raises:
        ValueError: a question leaves no room for a passage, or an answer is too long for a
            decoder-only generator.
    """
    check_question_lengths(rag, list(items.questions["question"]), args.max_question_length)
    first_only = slice(1 if items.target == "first" else None)
    answers = [text for golds in items.questions["answers"] for text in golds[first_only]]
    if isinstance(rag.retriever, PromptRetriever):
        ids = rag.retriever.writer.answers(rag.tokenizer.generator, answers)
        require_short(ids, answers, args.max_target_length)
        return
    rows = too_long(rag.tokenizer.generator, answers, args.max_target_length - 1)
    if rows:
        warnings.warn(
            f"{len(rows):,} of {len(answers):,} answers are longer than max_target_length "
            f"{args.max_target_length} and lose their end; the first: {answers[rows[0]][:60]!r}.",
            stacklevel=3,
        )


def warn_of_cloze(questions: Dataset) -> None:
    """Say where a generator is to learn from questions that are made for retrievers."""
    asked = zip(questions["question"], questions["answers"], strict=True)
    made = [question for question, answers in asked if answers and is_cloze(question, answers[0])]
    if len(made) > FEW * len(questions):
        warnings.warn(
            f"{len(made):,} of {len(questions):,} questions to train on are words of their own "
            f"answers, as make-questions makes them for train-retriever: {made[0][:60]!r}. From "
            "such questions a generator learns to repeat a sentence: give it people's, or leave it "
            "out of --trainable.",
            stacklevel=3,
        )


def eval_loss_at(log_history: Sequence[Mapping[str, Any]], step: int | None) -> float:
    """The loss of the evaluation after a step; infinite where there was none."""
    losses = (
        entry["eval_loss"]
        for entry in log_history
        if "eval_loss" in entry and entry["step"] == step
    )
    return next(losses, float("inf"))


def checkpointable(parts: Mapping[str, Any], trainable: Sequence[str]) -> list[Any]:
    """The trainable sub-models that can recompute activations.

    Transformers 5.23 refuses it for the RAG wrapper and for DPR, not for the network within.
    """
    found = []
    for network in (parts[name] for name in trainable):
        if isinstance(network, PooledEncoder):
            network = network.inner
        elif isinstance(network, (DPRQuestionEncoder, DPRContextEncoder)):
            network = network.base_model.bert_model
        found.append(network)
    return found


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


def padded_array(rows: Sequence[Sequence[int]], pad_token_id: int) -> np.ndarray:
    """Token ids of all rows, shape (rows, longest), padded with −100.

    Args:
        rows: token ids, with the padding that their batch brought.
        pad_token_id: what that padding is.
    """
    lengths = [
        max((i for i, token in enumerate(row, start=1) if token != pad_token_id), default=0)
        for row in rows
    ]
    padded = np.full((len(rows), max(lengths, default=0)), -100, dtype=np.int64)
    for target, row, length in zip(padded, rows, lengths, strict=True):
        target[:length] = row[:length]
    return padded


def tied_names(model: nn.Module) -> set[str]:
    """Names of the parameters that share their memory with another."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter.data_ptr(), []).append(name)
    return {name for group in names.values() if len(group) > 1 for name in group}
