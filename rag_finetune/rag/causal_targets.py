"""Losses of given answers of a decoder-only generator."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from rag_finetune.losses.likelihood import example_losses, vocabulary_log_probs
from rag_finetune.rag.causal_model import IGNORED, CausalRag, spread


class CausalTargetLosses:
    """Losses of the answers that a `CausalRag` is shown, used as `TargetLosses` is.

    Attributes:
        seen: as of `TargetLosses`.
    """

    def __init__(self, model: CausalRag) -> None:
        """Keep the model, which says how its prompts are read."""
        self.model = model
        self.seen: list[Tensor] | None = None

    def watch(self) -> AbstractContextManager[None]:
        """Forget what was seen; the model leaves out what does not count by itself."""
        if self.seen is not None:
            self.seen.clear()
        return nullcontext()

    def mask_of(self, labels: Tensor) -> Tensor:
        """True where a token of an answer counts, shape (B, T)."""
        return labels != IGNORED

    def decoder_input_ids(self, labels: Tensor) -> Tensor:
        """The labels: answers follow their prompts, nothing is shifted."""
        return labels

    def of(
        self,
        logits: Tensor,
        labels: Tensor,
        doc_scores: Tensor,
        label_smoothing: float = 0.0,
        passage_loss_weight: float = 0.0,
        doubt_weight: float = 0.0,
    ) -> Tensor:
        """The loss of each example in nats, shape (B,): −log p(y|x).

        In an ensemble p(y|x) = Σ_z p(z|x) p(y|x,z), as of RAG-Sequence; of a joined prompt it is
        the generator's own.

        Args:
            logits: what a forward pass gave, shape (R, V).
            labels: token ids of answers, shape (B, T), −100 where there is none.
            doc_scores: inner products of question and passage, shape (B, K).
            label_smoothing: see `rag_negative_log_likelihood`.
            passage_loss_weight: likewise.
            doubt_weight: likewise.

        Source:
            Lewis et al. 2020, arXiv:2005.11401, section 2.1; Lin et al. 2023, arXiv:2310.01352,
            section 2.2, where the prompts are trained on one by one.
        """
        token_log_probs = spread(logits, labels)  # (B, P, T)
        if self.model.template.reading == "joined":
            doc_scores = torch.zeros_like(doc_scores[:, :1])
        mask = self.mask_of(labels)
        if self.seen is not None:
            self.seen.append(token_log_probs.detach())
        mean_log_probs: Any = None
        if label_smoothing or doubt_weight:
            counted = mask.unsqueeze(1).expand_as(token_log_probs)
            mean_log_probs = torch.zeros_like(token_log_probs)
            mean_log_probs = mean_log_probs.masked_scatter(counted, vocabulary_log_probs(logits))
        return example_losses(
            token_log_probs,
            mean_log_probs,
            doc_scores,
            mask,
            False,
            (label_smoothing, passage_loss_weight, doubt_weight),
            logits.shape[-1],
        )
