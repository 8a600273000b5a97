"""`rag-finetune train-generator`: train the generator alone, on gold passages or on those found."""

import argparse
from typing import Any

from rag_finetune.cli.task import Task
from rag_finetune.cli.train import add_training_help, make_train_parser, run

TITLE = "Train the generator alone, on gold passages or on those found."


def make_generator_parser() -> argparse.ArgumentParser:
    """The flags of `train-generator` that are not training arguments."""
    return make_train_parser("train-generator", TITLE)


def make_help_parser() -> argparse.ArgumentParser:
    """The flags of `train-generator` that --help shows: without Transformers'."""
    from rag_finetune.training.generator_options import NOT_HERE, GeneratorOptions

    parser = make_generator_parser()
    add_training_help(parser, GeneratorOptions, NOT_HERE)
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    return run(argv, Task(make_generator_parser, make_help_parser, _arguments, trainer=_trainer))


def _arguments() -> Any:
    from rag_finetune.training.generator_arguments import GeneratorTrainingArguments

    return GeneratorTrainingArguments


def _trainer() -> Any:
    from rag_finetune.training.generator_trainer import GeneratorTrainer

    return GeneratorTrainer
