"""Losses of given answers: no padding in the generator's encoder, no logits behind its decoder."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import RagTokenForGeneration
from transformers.modeling_outputs import BaseModelOutput

from rag_finetune.encoders.encode import evaluation_mode
from rag_finetune.losses.likelihood import (
    rag_negative_log_likelihood,
    rag_negative_log_likelihood_from_states,
    shift_labels,
)
from rag_finetune.rag.recompute import recomputed_activations
from rag_finetune.rag.scoring import encode_by_length


class TargetLosses:
    """Losses of the answers that a RAG model is shown, equal to those from its logits.

        with losses.watch():
            outputs = model(decoder_input_ids=losses.decoder_input_ids(labels), …)
        loss = losses.of(outputs.logits, labels, doc_scores)

    Within `watch` the generator encodes contexts of similar length together, and its output layer
    is left out: the logits hold no position, the loss takes the layer's input instead. Both work
    by hooks, so that the model may be wrapped, as for several processes. A generator that does
    more than one linear layer behind its decoder, as T5Gemma does, gives its logits as ever.

    Attributes:
        seen: where it is a list, `of` leaves log p(y_t|x,z,y_<t) there, shape (B, K, T), for losses
            that judge passages by it.
    """

    def __init__(self, model: Any) -> None:
        """Look at the generator of a RAG model, which runs once on a single token."""
        self.model = model
        self.generator = model.rag.generator
        self.head: nn.Linear | None = linear_head(self.generator)
        self.seen: list[Tensor] | None = None
        self._states: Tensor | None = None

    def decoder_input_ids(self, labels: Tensor) -> Tensor:
        """Labels that the decoder shall read: the last predicts nothing, so it can be left out."""
        return labels if self.head is None else labels[:, :-1]

    def mask_of(self, labels: Tensor) -> Tensor:
        """True where a token of an answer counts, shape (B, T)."""
        return shift_labels(labels, self.model.config.generator.pad_token_id)[1]

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Hook into the generator for one forward pass."""
        self._states = None
        if self.seen is not None:
            self.seen.clear()
        hooks = [self.generator.register_forward_pre_hook(_encode, with_kwargs=True)]
        if self.head is not None:
            hooks.append(self.head.register_forward_pre_hook(self._take))
        try:
            with recomputed_activations():
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def of(
        self,
        logits: Tensor,
        labels: Tensor,
        doc_scores: Tensor,
        label_smoothing: float = 0.0,
        passage_loss_weight: float = 0.0,
        doubt_weight: float = 0.0,
    ) -> Tensor:
        """The loss of each example in nats, shape (B,).

        Args:
            logits: what the watched pass gave.
            labels: decoder input ids, shape (B, T + 1), padded with the generator's pad id.
            doc_scores: inner products of question and passage, shape (B, K).
            label_smoothing: see `rag_negative_log_likelihood`.
            passage_loss_weight: likewise.
            doubt_weight: likewise.
        """
        options: dict[str, Any] = {
            "pad_token_id": self.model.config.generator.pad_token_id,
            "per_token": isinstance(self.model, RagTokenForGeneration),
            "label_smoothing": label_smoothing,
            "passage_loss_weight": passage_loss_weight,
            "doubt_weight": doubt_weight,
            "seen": self.seen,
        }
        if self.head is None:
            return rag_negative_log_likelihood(logits, labels, doc_scores, **options)
        assert self._states is not None  # a watched pass went before
        states, self._states = self._states, None
        bias = _bias_of(self.generator, self.head)
        return rag_negative_log_likelihood_from_states(
            states, self.head.weight, bias, labels, doc_scores, **options
        )

    def _take(self, head: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """Keep what the output layer would read, in the type that it would compute in."""
        (states,) = args
        device = states.device.type
        if torch.is_autocast_enabled(device) and states.dtype != torch.float64:
            states = states.to(torch.get_autocast_dtype(device))
        self._states = states
        return (states[:, :0],)


def linear_head(generator: Any) -> nn.Linear | None:
    """The layer that makes a generator's logits, or None where it is not that layer alone.

    Told by a forward pass over one token: a bias may follow, scaling or capping may not.
    """
    head = generator.get_output_embeddings()
    if type(head) is not nn.Linear:
        return None
    states: list[Tensor] = []

    def enlarge(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        # To logits of 100: what caps them shows.
        largest = linear(args[0], head.weight).abs().max()
        states.append(args[0] * (100 / largest))
        return (states[0],)

    hook = head.register_forward_pre_hook(enlarge)
    token = torch.zeros((1, 1), dtype=torch.long, device=head.weight.device)
    no_autocast = torch.autocast(token.device.type, enabled=False)
    try:
        with evaluation_mode(generator), torch.no_grad(), no_autocast:
            logits = generator(input_ids=token, decoder_input_ids=token, use_cache=False).logits
            expected = linear(states[0], head.weight, _bias_of(generator, head))
    finally:
        hook.remove()
    tolerance = 1e-3 if logits.dtype.itemsize > 2 else 0.1
    alike = torch.allclose(logits, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    return head if alike else None


def _bias_of(generator: Any, head: nn.Linear) -> Tensor | None:
    """What is added to the product of states and weight, shape (V,): BART keeps a bias apart."""
    own = getattr(generator, "final_logits_bias", None)
    if own is None:
        return head.bias
    return own[0] if head.bias is None else own[0] + head.bias


def _encode(generator: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Encode the contexts in groups of similar length before the generator would as one batch."""
    if kwargs.get("encoder_outputs") is not None:
        return args, kwargs
    states = encode_by_length(
        generator.get_encoder(), kwargs["input_ids"], kwargs["attention_mask"]
    )
    outputs = BaseModelOutput(last_hidden_state=states)
    return args, {**kwargs, "input_ids": None, "encoder_outputs": outputs}
