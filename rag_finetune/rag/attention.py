"""What a decoder attends to where it reads all passages of a question at once.

Transformers gives no attention weights with its fast kernels, and no norms of values at all; both
are taken here from what each attention of one decoder pass was given.

Source:
    Izacard et al. 2022 (Atlas), arXiv:2208.03299, section 2.2, ADist.
"""

from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers import EncoderDecoderCache as Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rag_finetune.encoders.encode import evaluation_mode
from rag_finetune.rag.sharing import attention_of

ATTENTION = "rag_watched"  # its name among Transformers' kinds of attention

# What the attentions of a pass were given: queries, keys, values, scaling, bias of positions.
_WATCHED: ContextVar[list[tuple[Tensor, Tensor, Tensor, float | None, Tensor | None]] | None]
_WATCHED = ContextVar("watched", default=None)


def passage_attention(
    generator: Any,
    states: Tensor,
    attention_mask: Tensor,
    decoder_input_ids: Tensor,
    mask: Tensor,
    live: Tensor,
) -> Tensor:
    """How much of a question's attention each of its passages gets.

    The decoder reads the encoder's states of all passages as one context. The weight α of each
    token is multiplied by the length of its value, and the mean taken over layers, heads, the
    answer's tokens and the passage's; then it is divided by the mean over the passages. Without
    that, as in the paper, it is the smaller the more is read (about 0.003 at ten short passages),
    and a softmax of it flat at any temperature that serves for log-likelihoods.

    Args:
        generator: an encoder-decoder; its dropout is switched off meanwhile.
        states: its encoder's states, shape (B·K, length, width).
        attention_mask: of the contexts, shape (B·K, length).
        decoder_input_ids: shape (B, T).
        mask: True where a token of the answer counts, shape (B, T).
        live: False where there is no passage, which then is not read, shape (B, K).

    Returns:
        Shape (B, K), at least 0, with the mean 1 over the passages that there are; 0 elsewhere.
    """
    joint = states.reshape(len(mask), -1, states.shape[-1])  # (B, K·length, width)
    live = live | ~live.any(1, keepdim=True)  # something must be read; its loss is 0
    tokens = attention_mask.view(*live.shape, -1).bool() & live.unsqueeze(-1)  # (B, K, length)
    read = tokens.flatten(1)  # (B, K·length)
    seen = _watched_pass(generator, joint, read, decoder_input_ids)
    counted = mask.to(joint.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)  # (B, T)
    whole = torch.stack([_weights(layer, read, counted) for layer in seen]).mean(0)
    summed = whole.view_as(tokens).masked_fill(~tokens, 0.0).sum(-1)
    attention = summed / tokens.sum(-1).clamp(min=1)
    mean = attention.sum(1, keepdim=True) / live.sum(1, keepdim=True)
    return attention / mean.clamp(min=torch.finfo(attention.dtype).tiny)


def require_watchable(generator: Any) -> None:
    """Check that the attention of a generator can be seen.

    Raises:
        ValueError: its decoder does not look its attention up in Transformers' registry, or its
            attention is one that sdpa cannot compute.
    """
    token = torch.zeros((1, 1), dtype=torch.long, device=generator.device)
    with torch.no_grad(), evaluation_mode(generator):
        states = generator.get_encoder()(input_ids=token, return_dict=True).last_hidden_state
        _watched_pass(generator, states, token == 0, token)


def _watched_pass(generator: Any, states: Tensor, read: Tensor, decoder_input_ids: Tensor) -> list:
    """What each cross-attention of a decoder pass was given, by layer."""
    decoder, both = generator.get_decoder(), Cache(DynamicCache(), DynamicCache())
    watched: list[Any] = []
    with attention_of(decoder, ATTENTION, _WATCHED, watched), evaluation_mode(decoder):
        decoder(
            input_ids=decoder_input_ids,
            encoder_hidden_states=states,
            encoder_attention_mask=read.long(),
            past_key_values=both,
            use_cache=True,
        )
    layers: Any = both.cross_attention_cache.layers
    found = [next((one for one in watched if one[1] is layer.keys), None) for layer in layers]
    if not found or None in found:
        raise ValueError(
            f"retriever_loss adist cannot see the attention of {type(generator).__name__}. Use "
            "lsr, pdist, emdr2 or loop, which judge passages by the likelihood of the answer."
        )
    return found


def _weights(layer: tuple, read: Tensor, counted: Tensor) -> Tensor:
    """α·‖v‖ of every token that is read, mean over heads and the answer's tokens, (B, K·length)."""
    query, key, value, scaling, bias = layer
    groups = query.shape[1] // key.shape[1]  # heads that share keys
    key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    scores = query.float() @ key.float().transpose(-1, -2)  # (B, heads, T, K·length)
    scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if bias is not None:
        scores = scores + bias.float()
    out = torch.finfo(scores.dtype).min
    shares = torch.softmax(scores.masked_fill(~read[:, None, None], out), dim=-1)
    lengths = value.float().norm(dim=-1)  # (B, heads, K·length)
    by_head = torch.einsum("bt,bhtn->bhn", counted.float(), shares) * lengths
    return by_head.mean(1)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as Transformers' "sdpa"; what it was given is kept."""
    watched = _WATCHED.get()
    assert watched is not None
    watched.append((query, key, value, options.get("scaling"), options.get("position_bias")))
    found, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return found, None


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
