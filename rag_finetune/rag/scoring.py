"""Scores of passages and of given answers: what decoding and training share."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from rag_finetune.losses.likelihood import shift_labels, target_log_probs

LOGITS_PER_CHUNK = 2**27  # float32 values held at once while candidates are scored


@dataclass
class Contexts:
    """What the generator reads for B questions with K passages each.

    Attributes:
        input_ids: shape (B·K, length).
        attention_mask: shape (B·K, length).
        doc_scores: inner products of question and passage, shape (B, K) float32; −inf for none,
            at least one of each row finite.
    """

    input_ids: Tensor
    attention_mask: Tensor
    doc_scores: Tensor


def score_passages(question_hidden_states: Tensor, doc_embeds: Tensor, doc_ids: Tensor) -> Tensor:
    """Inner products of questions and passages, in float32 whatever autocast says.

    Args:
        question_hidden_states: shape (B, dim).
        doc_embeds: shape (B, K, dim).
        doc_ids: rows in the index, shape (B, K); −1 for no passage.

    Returns:
        doc_scores, shape (B, K) float32, −inf where there is no passage. Where there is none at
        all, the first score is 0: p(z|x) is then 1 for an empty passage, and the generator answers
        from the question alone.
    """
    # Under autocast the product would be bfloat16: off by 0.3 at a score of 105.
    with torch.autocast(question_hidden_states.device.type, enabled=False):
        embeds = doc_embeds.to(question_hidden_states.device, torch.float32)
        scores = (question_hidden_states.float().unsqueeze(1) * embeds).sum(-1)
    is_none = doc_ids.to(scores.device) < 0
    is_first = torch.arange(scores.shape[1], device=scores.device) == 0
    scores = scores.masked_fill(is_none, -torch.inf)
    return scores.masked_fill(is_none.all(dim=1, keepdim=True) & is_first, 0.0)


def encode_contexts(generator: Any, contexts: Contexts) -> Tensor:
    """The generator's encoder states of every context, shape (B·K, length, width)."""
    states: Tensor = generator.get_encoder()(
        input_ids=contexts.input_ids, attention_mask=contexts.attention_mask, return_dict=True
    ).last_hidden_state
    return states


def token_log_probs(
    model: Any, contexts: Contexts, states: Tensor, context_rows: Tensor, sequences: Tensor
) -> tuple[Tensor, Tensor]:
    """Log p(y_t|x,z,y_<t) of pairs of a context and a sequence, by the decoder alone.

    Args:
        model: the RAG model.
        contexts: what the encoder read.
        states: what it made of it, shape (B·K, length, width).
        context_rows: the row of `states` of each pair, shape (P,).
        sequences: the sequence of each pair, shape (P, T + 1), from the decoder's start token.

    Returns:
        Log-probabilities in nats, shape (P, T), and True where a token counts, shape (P, T).
    """
    generator = model.rag.generator
    targets, mask = shift_labels(sequences, model.config.generator.pad_token_id)
    per_row = sequences.shape[1] * model.config.generator.vocab_size
    chunk = max(1, LOGITS_PER_CHUNK // per_row)
    parts = []
    for start in range(0, len(sequences), chunk):
        rows = context_rows[start : start + chunk]
        logits = generator(
            encoder_outputs=BaseModelOutput(last_hidden_state=states[rows]),
            attention_mask=contexts.attention_mask[rows],
            decoder_input_ids=sequences[start : start + chunk],
            use_cache=False,
            return_dict=True,
        ).logits[:, :-1]
        parts.append(target_log_probs(logits, targets[start : start + chunk]))
    return torch.cat(parts), mask
