"""`rag-finetune train-generator`: train the generator alone, on gold passages or on those found."""

from rag_finetune.cli import train
from rag_finetune.training.generator_options import NOT_HERE

GENERATOR = train.Training(
    "train-generator",
    "Train the generator alone, on gold passages or on those found.",
    "generator_options:GeneratorOptions",
    "generator_arguments:GeneratorTrainingArguments",
    "generator_trainer:GeneratorTrainer",
    tuple(NOT_HERE),
)


def main(argv: list[str]) -> int:
    """Run the command."""
    return train.main(argv, GENERATOR)
