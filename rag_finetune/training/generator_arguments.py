"""GeneratorTrainingArguments: RagTrainingArguments for a generator that learns alone."""

from dataclasses import dataclass

from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.generator_options import (
    CONTEXTS,
    GOLD_PROBABILITY,
    NOT_HERE,
    GeneratorOptions,
)
from rag_finetune.training.launch import refuse


@dataclass
class GeneratorTrainingArguments(GeneratorOptions, RagTrainingArguments):
    """RagTrainingArguments with what generator training adds.

    The options are described in `rag_finetune.training.generator_options` and, where they are those
    of RAG training, in `rag_finetune.training.options`.
    """

    command = "train-generator"

    def _check_options(self) -> None:
        """Raise for options that are out of range, or have no meaning with one passage."""
        others = {name: reason for name, reason in NOT_HERE.items() if name != "trainable"}
        refuse(self, others)
        if self.trainable != ["generator"]:
            raise ValueError(f"--trainable cannot be used: {NOT_HERE['trainable']}.")
        super()._check_options()
        if self.context not in CONTEXTS:
            raise ValueError(
                f'context must be one of {", ".join(CONTEXTS)}, found "{self.context}".'
            )
        if not 0.0 <= self.gold_probability <= 1.0:
            raise ValueError(
                f"gold_probability must be from 0 to 1, found {self.gold_probability}."
            )
        if self.context != "mixed" and self.gold_probability != GOLD_PROBABILITY:
            raise ValueError(
                f"gold_probability does nothing with --context {self.context}: say --context "
                "mixed, or leave it out."
            )
        if self.context != "gold" and self.dataloader_persistent_workers:
            raise ValueError(
                f"context {self.context} draws passages anew each epoch, which "
                "dataloader_persistent_workers do not hear of. Leave one of them out."
            )
