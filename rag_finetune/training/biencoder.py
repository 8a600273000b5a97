"""Question and context encoder as one network: two networks, or the same one twice."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DPRContextEncoder, DPRQuestionEncoder

from rag_finetune.encoders.pooled import PooledEncoder
from rag_finetune.encoders.prefix import with_prefix
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.training.token_rows import TextBatch


class BiEncoder(nn.Module):
    """Vectors of questions and passages, in one forward pass, as distributed training needs it.

    Attributes:
        question_encoder: the network that reads questions; passages too where the two are tied.
        context_encoder: the network that reads passages; missing where the two are tied.
        recompute: keep no activations of a part of a batch, and run it again for its gradient,
            with the same dropout. Memory is then that of one part, whatever the batch: the
            gradient cache of Gao et al. 2021, arXiv:2101.06983.
    """

    def __init__(
        self, question_encoder: nn.Module, context_encoder: nn.Module | None, recompute: bool
    ) -> None:
        """Join two networks; None as the second ties them."""
        super().__init__()
        self.question_encoder = question_encoder
        if context_encoder is not None:
            self.context_encoder = context_encoder
        self.recompute = recompute

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return dict(self.named_children())

    def forward(self, questions: TextBatch, passages: TextBatch) -> tuple[Tensor, Tensor]:
        """Vectors of a batch, shapes (Q, dim) and (P, dim), in the order of the batch."""
        context_encoder = self.parts.get("context_encoder", self.question_encoder)
        return self._encode(self.question_encoder, questions), self._encode(
            context_encoder, passages
        )

    def _encode(self, network: nn.Module, texts: TextBatch) -> Tensor:
        """Vectors of texts, shape (texts, dim)."""
        vectors = []
        for part in texts["parts"]:
            if self.recompute and torch.is_grad_enabled():
                vectors.append(checkpoint(_vectors, network, part, use_reentrant=False))
            else:
                vectors.append(_vectors(network, part))
        return torch.cat(vectors)[texts["order"]]


def _vectors(network: nn.Module, part: dict[str, Tensor]) -> Tensor:
    """What a network makes of padded texts, shape (texts, dim)."""
    vectors: Tensor = network(**part, return_dict=True)[0]
    return vectors


def tie(question: TextEncoder, context: TextEncoder) -> None:
    """Let passages be read by the network that reads questions.

    Args:
        question: the question encoder.
        context: the context encoder, loaded from the same source; its network is given up.

    Raises:
        ValueError: the two are of different kinds.
    """
    ours: Any = question.model
    if isinstance(ours, PooledEncoder) and isinstance(context.model, PooledEncoder):
        context.model = ours
    elif isinstance(ours, DPRQuestionEncoder) and isinstance(context.model, DPRContextEncoder):
        context.model.ctx_encoder = ours.question_encoder
    else:
        raise ValueError(
            f"{question.name} and {context.name} cannot be one network: they are of different "
            "kinds. Give the same encoder for both, or leave --tied out."
        )


def context_of(question: TextEncoder, max_length: int, prefix: str = "") -> TextEncoder:
    """A context encoder that shares the network of a DPR question encoder.

    Args:
        question: the question encoder.
        max_length: tokens of a passage at most.
        prefix: what stands in front of every passage; that of the questions is theirs alone.
    """
    ours: Any = question.model
    model: Any = DPRContextEncoder(ours.config)
    model.ctx_encoder = ours.question_encoder
    most = min(max_length, ours.config.max_position_embeddings)
    return TextEncoder(model.eval(), with_prefix(question.tokenizer, prefix), most, question.name)
