"""What the commands that train a RAG model have in common."""

import argparse

import pytest

from rag_finetune.cli.rag_training import (
    END_TO_END,
    load_class,
    make_help_parser,
    make_train_parser,
)
from rag_finetune.cli.train_generator import GENERATOR


@pytest.mark.parametrize("training", [END_TO_END, GENERATOR], ids=lambda training: training.name)
def test_each_names_classes_that_are_there(training):
    options, arguments, trainer = map(
        load_class, (training.options, training.arguments, training.trainer)
    )
    assert issubclass(arguments, options)
    assert trainer.__name__.endswith("Trainer")


def flags(parser: argparse.ArgumentParser) -> set[str]:
    return {action.dest for action in parser._actions}


def test_help_shows_what_a_command_takes_and_not_what_it_refuses():
    whole, generator = flags(make_help_parser()), flags(make_help_parser(GENERATOR))
    assert set(GENERATOR.without) <= whole
    assert generator == whole - set(GENERATOR.without) | {"context", "gold_probability"}


def test_the_usage_names_the_command():
    assert make_train_parser(GENERATOR).prog.endswith("train-generator")
    assert "rag_finetune train-generator" in make_train_parser(GENERATOR).format_help()
