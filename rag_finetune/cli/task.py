"""What a training command trains, and how. Imports nothing heavy."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag_finetune.rag.checkpoint import Rag
    from rag_finetune.training.arguments import RagTrainingArguments


def rag_arguments() -> Any:
    """The training arguments of `train`."""
    from rag_finetune.training.arguments import RagTrainingArguments

    return RagTrainingArguments


def load_checkpoint(data: argparse.Namespace, args: "RagTrainingArguments") -> "Rag":
    """The model of --model_name_or_path; the trainer gives it what the arguments say."""
    from rag_finetune.rag.checkpoint import load_rag

    return load_rag(
        data.model_name_or_path,
        index=data.index,
        model_type=data.model_type,
        retrieval=data.retrieval,
        lexical_prior=data.lexical_prior,
    )


def rag_trainer() -> Any:
    """The trainer of `train`."""
    from rag_finetune.training.rag_trainer import RagTrainer

    return RagTrainer


@dataclass(frozen=True)
class Task:
    """In what training commands differ.

    Attributes:
        parser: makes the flags that are not training arguments.
        help_parser: makes those that --help shows.
        arguments: gives the dataclass of training arguments.
        load: makes the model from the flags and the training arguments.
        trainer: gives the trainer's class.
    """

    parser: Callable[[], argparse.ArgumentParser]
    help_parser: Callable[[], argparse.ArgumentParser]
    arguments: Callable[[], Any] = rag_arguments
    load: Callable[[argparse.Namespace, Any], "Rag"] = load_checkpoint
    trainer: Callable[[], Any] = rag_trainer
