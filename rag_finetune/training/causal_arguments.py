"""CausalTrainingArguments: RAG's training arguments for decoder-only generators."""

from dataclasses import dataclass

from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.causal_options import NOT_HERE, CausalOptions
from rag_finetune.training.launch import refuse
from rag_finetune.training.loss_terms import parse_losses

# Losses of the retriever that need what a decoder-only model does not have, with the reason.
NEEDS_ENCODER = {
    "adist": "it takes the attention of a decoder to encoded passages",
    "contrastive": "train the encoders on gold passages with `rag-finetune train-retriever`",
}


@dataclass
class CausalTrainingArguments(CausalOptions, RagTrainingArguments):
    """RagTrainingArguments with what decoder-only generators add; see `CausalOptions`."""

    command = "train-causal"

    def _check_options(self) -> None:
        """Raise for options of ours that are out of range or do not go together."""
        refuse(self, NOT_HERE)
        super()._check_options()
        if self.lora_rank is not None and self.lora_rank < 1:
            raise ValueError(f"lora_rank must be at least 1, found {self.lora_rank}.")
        if self.lora_rank is not None and "generator" not in self.trainable:
            raise ValueError(
                "lora_rank is set, but the generator does not learn: add it to --trainable."
            )
        if self.load_in_4bit and self.lora_rank is None:
            raise ValueError(
                "load_in_4bit fixes the generator's weights, and something has to learn: give "
                "--lora_rank."
            )
        if "context_encoder" in self.trainable:
            raise ValueError(
                "The context encoder cannot learn beside a decoder-only generator: take it out of "
                "--trainable, and train it with `rag-finetune train-retriever`."
            )
        for name in parse_losses(self.retriever_loss):
            if name in NEEDS_ENCODER:
                raise ValueError(
                    f"retriever_loss {name} cannot be used with a decoder-only generator: "
                    f"{NEEDS_ENCODER[name]}. Use lsr, pdist, emdr2, loop or listwise."
                )
        if self.decoding != "thorough":
            raise ValueError(
                f"--decoding {self.decoding} is for RAG-Sequence: a decoder-only generator answers "
                "from all passages at once. Leave it out."
            )
