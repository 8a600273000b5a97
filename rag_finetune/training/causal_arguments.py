"""CausalTrainingArguments: RAG's training arguments for decoder-only generators."""

from dataclasses import dataclass

from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.causal_options import CausalOptions
from rag_finetune.training.launch import check_world


@dataclass
class CausalTrainingArguments(CausalOptions, RagTrainingArguments):
    """RagTrainingArguments with what decoder-only generators add; see `CausalOptions`."""

    def _check_options(self) -> None:
        """Raise for options of ours that are out of range or do not go together."""
        super()._check_options()
        if self.lora_rank is not None and self.lora_rank < 1:
            raise ValueError(f"lora_rank must be at least 1, found {self.lora_rank}.")
        if self.lora_rank is not None and "generator" not in self.trainable:
            raise ValueError(
                "lora_rank is set, but the generator does not learn: add it to --trainable."
            )
        if self.decoding != "thorough":
            raise ValueError(
                f"--decoding {self.decoding} is for RAG-Sequence: a decoder-only generator answers "
                "from all passages at once. Leave it out."
            )

    def _check_world(self) -> None:
        """Raise where a launcher's processes do not see each other; use one GPU of several."""
        check_world(self, "train-causal")
