"""Scores of passages and of given answers: what decoding and training share."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from rag_finetune.losses.likelihood import shift_labels
from rag_finetune.rag.race import Race
from rag_finetune.rag.sharing import SharedContexts

LOGITS_PER_CHUNK = 2**26  # values held at once while candidates are scored
LENGTH_GROUPS = 4  # contexts are encoded in at most so many groups of similar length
# Arithmetic that the device does while a further call of the encoder is set up.
OPERATIONS_PER_CALL = {"cpu": 5e8, "cuda": 1e12}


@dataclass
class Contexts:
    """What the generator reads for B questions with K passages each.

    Attributes:
        input_ids: shape (B·K, length).
        attention_mask: shape (B·K, length).
        doc_scores: inner products of question and passage, shape (B, K) float32; −inf for none,
            at least one of each row finite.
        states: the generator's encoder states where they are known already, as from
            `encode_contexts`, shape (B·K, length, width).
    """

    input_ids: Tensor
    attention_mask: Tensor
    doc_scores: Tensor
    states: Tensor | None = None

    def as_inputs(self, device: torch.device) -> dict[str, Tensor]:
        """What a RAG model's forward pass takes of them, on a device."""
        return {
            "context_input_ids": self.input_ids.to(device),
            "context_attention_mask": self.attention_mask.to(device),
            "doc_scores": self.doc_scores.to(device),
        }

    def repeated(self, count: int) -> "Contexts":
        """Every question count times, what is read for it kept together."""
        each = len(self.input_ids) // len(self.doc_scores)  # fewer than passages in joined prompts

        def repeat(tensor: Tensor) -> Tensor:
            grouped = tensor.view(-1, each, *tensor.shape[1:])
            return grouped.repeat_interleave(count, 0).flatten(0, 1)

        return Contexts(
            repeat(self.input_ids),
            repeat(self.attention_mask),
            self.doc_scores.repeat_interleave(count, 0),
            None if self.states is None else repeat(self.states),
        )


def score_passages(
    question_hidden_states: Tensor,
    doc_embeds: Tensor,
    doc_ids: Tensor,
    prior: np.ndarray | None = None,
) -> Tensor:
    """Inner products of questions and passages, in float32 whatever autocast says.

    Args:
        question_hidden_states: shape (B, dim).
        doc_embeds: shape (B, K, dim).
        doc_ids: rows in the index, shape (B, K); −1 for no passage.
        prior: what is added, such as scores by words, shape (B, K); None for nothing.

    Returns:
        doc_scores, shape (B, K) float32, −inf where there is no passage. Where there is none at
        all, the first score is 0: p(z|x) is then 1 for an empty passage, and the generator answers
        from the question alone.
    """
    # Under autocast the product would be bfloat16: off by 0.3 at a score of 105.
    with torch.autocast(question_hidden_states.device.type, enabled=False):
        embeds = doc_embeds.to(question_hidden_states.device, torch.float32)
        scores = (question_hidden_states.float().unsqueeze(1) * embeds).sum(-1)
    if prior is not None:
        scores = scores + torch.from_numpy(prior).to(scores.device)
    return mask_missing(scores, doc_ids)


def mask_missing(doc_scores: Tensor, doc_ids: Tensor) -> Tensor:
    """Scores of passages, with what `score_passages` says of those that are none."""
    is_none = doc_ids.to(doc_scores.device) < 0
    is_first = torch.arange(doc_scores.shape[1], device=doc_scores.device) == 0
    scores = doc_scores.masked_fill(is_none, -torch.inf)
    return scores.masked_fill(is_none.all(dim=1, keepdim=True) & is_first, 0.0)


def encode_contexts(generator: Any, contexts: Contexts) -> Tensor:
    """The generator's encoder states of every context, shape (B·K, length, width).

    Known ones are not computed again. What stands in padding means nothing.
    """
    if contexts.states is not None:
        return contexts.states
    return encode_by_length(generator.get_encoder(), contexts.input_ids, contexts.attention_mask)


def encode_by_length(encoder: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The encoder's states, contexts of similar length together where that is less work.

    In one batch, a third of the work can be on padding. Gradients are kept.

    Args:
        encoder: a generator's encoder.
        input_ids: shape (N, length), N at least 1.
        attention_mask: shape (N, length).

    Returns:
        Shape (N, length, width); what stands in padding means nothing.
    """
    count, longest = attention_mask.shape
    lengths = longest - attention_mask.flip(1).argmax(1)  # up to the last token; (N,)
    per_token = 2 * encoder.num_parameters(exclude_embeddings=True)
    per_call = OPERATIONS_PER_CALL.get(attention_mask.device.type, 1e12)
    groups = length_groups(lengths.tolist(), per_call / per_token)
    order = [row for rows in groups for row in rows]
    found = []
    for rows in groups:
        length = int(lengths[rows].max())
        states = encoder(
            input_ids=input_ids[rows, :length],
            attention_mask=attention_mask[rows, :length],
            return_dict=True,
        ).last_hidden_state
        found.append(pad(states, (0, 0, 0, longest - length)))
    places = torch.empty(count, dtype=torch.long)
    places[order] = torch.arange(count)
    return torch.cat(found)[places.to(attention_mask.device)]


def length_groups(lengths: list[int], call_cost: float) -> list[list[int]]:
    """Rows in groups of similar length, as many as make the least work; short ones first.

    Args:
        lengths: tokens of each row.
        call_cost: what a further group costs, in tokens.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)

    def split(count: int) -> list[list[int]]:
        ends = [len(order) * number // count for number in range(count + 1)]
        return [order[start:end] for start, end in pairwise(ends) if start < end]

    def work(groups: list[list[int]]) -> float:
        return sum(len(rows) * lengths[rows[-1]] + call_cost for rows in groups)

    return min(map(split, range(1, LENGTH_GROUPS + 1)), key=work)


def read_contexts(generator: Any, contexts: Contexts) -> SharedContexts:
    """Contexts as the generator's decoder reads them."""
    return SharedContexts(generator, encode_contexts(generator, contexts), contexts.attention_mask)


def sequence_log_probs(
    model: Any,
    read: SharedContexts,
    rows: Tensor,
    sequences: Tensor,
    pairs: Tensor,
    priors: Tensor | None,
) -> Tensor:
    """Log p(y|x,z) of candidate answers under passages.

    A BOS token that every candidate of a question starts with does not count.

    Args:
        model: the RAG model.
        read: the contexts, as its generator reads them.
        rows: the question of each candidate, shape (C,).
        sequences: token ids from the decoder's start token, shape (C, T + 1).
        pairs: True where a candidate is scored under a passage, shape (C, K).
        priors: log p(z|x) in nats, shape (C, K), where only the best candidate of each question is
            wanted: another need not be scored to its end. None to score all.

    Returns:
        Nats, shape (C, K); −inf where `pairs` is False. With `priors`, of what cannot win only a
        bound from above.
    """
    generator_config = model.config.generator
    candidates, passages = pairs.nonzero(as_tuple=True)  # (P,) each
    _, mask = shift_labels(sequences, generator_config.pad_token_id)  # (C, T)
    bos_token_id = model.config.bos_token_id or generator_config.bos_token_id
    if bos_token_id is not None:
        starts = sequences[:, 1] == bos_token_id
        common = torch.stack([starts[rows == row].all() for row in rows])
        mask[:, 0] &= ~common
    mask, questions = mask[candidates], rows[candidates]
    race = None if priors is None else Race(questions, priors[candidates, passages])
    contexts = questions * pairs.shape[1] + passages
    per_token, _ = token_log_probs(model, read, contexts, sequences[candidates], mask, race)
    log_probs = per_token.new_full(pairs.shape, -torch.inf)
    log_probs[candidates, passages] = per_token.masked_fill(~mask, 0.0).sum(-1)
    return log_probs


@torch.no_grad()
def token_log_probs(
    model: Any,
    read: SharedContexts,
    context_rows: Tensor,
    sequences: Tensor,
    mask: Tensor | None = None,
    race: Race | None = None,
) -> tuple[Tensor, Tensor]:
    """Log p(y_t|x,z,y_<t) of pairs of a context and a sequence, by the decoder alone.

    What sequences of a context begin with in common is decoded once. Gradients are not kept.

    Args:
        model: the RAG model.
        read: the contexts, as its generator reads them.
        context_rows: the context of each pair, shape (P,).
        sequences: the sequence of each pair, shape (P, T + 1), from the decoder's start token.
        mask: True where a token counts, shape (P, T); default: on all but padding.
        race: of these pairs, where only the best sequence of a question is wanted.

    Returns:
        Log-probabilities in nats, shape (P, T), and True where a token counts, shape (P, T); where
        none counts, the former mean nothing.
    """
    if mask is None:
        _, mask = shift_labels(sequences, model.config.generator.pad_token_id)
    log_probs = torch.zeros(mask.shape, device=mask.device)
    at_once = max(1, LOGITS_PER_CHUNK // model.config.generator.vocab_size)
    for pairs in context_rows.argsort(stable=True).split(at_once):
        log_probs[pairs] = _block_log_probs(
            model.rag.generator,
            read,
            context_rows[pairs],
            sequences[pairs],
            mask[pairs],
            None if race is None else race.of(pairs),
        )
    return log_probs, mask


def _block_log_probs(
    generator: Any,
    read: SharedContexts,
    context_rows: Tensor,
    sequences: Tensor,
    mask: Tensor,
    race: Race | None,
) -> Tensor:
    """`token_log_probs` of pairs whose logits of one position fit into memory.

    The sequences of a context are a tree; its nodes are decoded level by level.
    """
    log_probs = torch.zeros(mask.shape, device=mask.device)
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = (places * mask).amax(-1)  # up to the last token that counts; (P,)
    node, cache = context_rows, DynamicCache()  # the node of each pair
    for level in range(int(lengths.max())):
        pairs = (lengths > level).nonzero().squeeze(-1)
        if race is not None:
            pairs = pairs[race.is_open(pairs)]
            if not len(pairs):
                break
        # A node is what it continues, and with which token.
        named = torch.stack([node[pairs], sequences[pairs, level]], dim=1)
        nodes, place = named.unique(dim=0, return_inverse=True)  # (N, 2), (len(pairs),)
        rows = torch.empty_like(nodes[:, 0]).scatter_(0, place, context_rows[pairs])  # (N,)
        if level:
            cache.batch_select_indices(nodes[:, 0])
        with read.read_by(rows, cache) as past:
            logits = generator(
                encoder_outputs=read.encoder_outputs(len(rows)),
                attention_mask=read.mask[rows],
                decoder_input_ids=nodes[:, 1:],
                past_key_values=past,
                use_cache=True,
                return_dict=True,
            ).logits[:, 0]  # (N, V)
        chosen = logits[place, sequences[pairs, level + 1]].float()
        log_probs[pairs, level] = chosen - logits.float().logsumexp(-1)[place]
        if race is not None:
            counted = log_probs[pairs, level].masked_fill(~mask[pairs, level], 0.0)
            race.add(pairs, counted, lengths[pairs] == level + 1)
        node = node.index_copy(0, pairs, place)
    return log_probs
