"""The flags of the commands that train a RAG model, and what tells these commands apart."""

import argparse
import importlib
from typing import Any, NamedTuple

from rag_finetune.cli.flags import (
    CHECKPOINT,
    add_probe_flag,
    add_question_flags,
    add_retrieval_flags,
)
from rag_finetune.cli.parsing import add_bool, add_dataclass_options, make_parser
from rag_finetune.training.resume import LATEST

EPILOG = """\
Transformers' own training flags are taken as well, such as --learning_rate, --num_train_epochs,
--max_steps, --per_device_train_batch_size, --gradient_accumulation_steps, --eval_strategy,
--save_strategy, --logging_steps, --report_to, --bf16, --seed; --help_all lists them.

several processes:
  accelerate launch --multi_gpu --num_processes 2 -m rag_finetune {name} --config recipe.yaml
"""


class Training(NamedTuple):
    """What tells a command that trains a RAG model from the others.

    Attributes:
        name: of the command.
        title: what it does.
        options: the dataclass of our own training flags, as module:name.
        arguments: the dataclass of all of them, likewise.
        trainer: the trainer, likewise.
        without: flags of `options` that it refuses.
    """

    name: str
    title: str
    options: str
    arguments: str
    trainer: str
    without: tuple[str, ...] = ()


END_TO_END = Training(
    "train",
    "Fine-tune question encoder and generator end to end.",
    "options:RagOptions",
    "arguments:RagTrainingArguments",
    "rag_trainer:RagTrainer",
)


def load_class(name: str) -> Any:
    """The class that a `Training` names."""
    module, _, found = name.partition(":")
    return getattr(importlib.import_module(f"rag_finetune.training.{module}"), found)


def make_train_parser(training: Training = END_TO_END) -> argparse.ArgumentParser:
    """The flags of a command that are not training arguments."""
    epilog = EPILOG.format(name=training.name)
    parser = make_parser(training.name, training.title, epilog)
    parser.add_argument("--model_name_or_path", required=True, help=CHECKPOINT)
    parser.add_argument(
        "--model_type",
        choices=("rag_sequence", "rag_token"),
        help="head; default: the checkpoint's own",
    )
    parser.add_argument("--index", help="index folder; default: the checkpoint's own")
    parser.add_argument("--train_file", required=True, help="questions to train on")
    parser.add_argument("--validation_file", help="questions that choose the best checkpoint")
    parser.add_argument(
        "--validation_split",
        type=float,
        default=0.1,
        help="without --validation_file: share of the training questions held out for it, by "
        "document where gold passages are known; 0 for none",
    )
    add_question_flags(parser)
    parser.add_argument(
        "--max_train_samples", type=int, help="train on the first so many questions"
    )
    parser.add_argument(
        "--max_eval_samples", type=int, help="validate on the first so many questions"
    )
    add_retrieval_flags(parser)
    add_probe_flag(parser)
    add_bool(parser, "dry_run", False, "read the flags and the questions, and stop")
    add_bool(parser, "help_all", False, "list Transformers' training flags too")
    return parser


def make_help_parser(training: Training = END_TO_END) -> argparse.ArgumentParser:
    """The flags that --help shows: without Transformers', so that it is instant."""
    parser = make_train_parser(training)
    group = parser.add_argument_group("training")
    group.add_argument(
        "--output_dir",
        help="for the checkpoint, its index and the logs; default: trainer_output",
    )
    group.add_argument(
        "--resume_from_checkpoint",
        help=f"go on from a checkpoint folder; `{LATEST}`: the last one in --output_dir",
    )
    add_dataclass_options(group, load_class(training.options), training.without)
    return parser
