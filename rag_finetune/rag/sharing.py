"""One set of cross-attention keys and values a context, for all sequences decoded from it.

Transformers copies a context's keys and values for each of its beams, at every step of a search.
Here the sequences of a context put their queries to one copy, in one product.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers import EncoderDecoderCache as Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutput

ATTENTION = "rag_shared"  # its name among Transformers' kinds of attention
# What `generate` must not do with a cache that it is given; the sequences are the same.
OWN_CACHE: dict[str, Any] = {"use_cache": True, "cache_implementation": None}


class SharedContexts:
    """What a generator's decoder reads of C contexts: computed once, read by any number of rows.

    Attributes:
        mask: True (or 1) where a context has a token, shape (C, length).
        keys: keys and values of every layer, each of shape (C, heads, length, width of a head).
        is_shared: False for a decoder that does not look its attention up in Transformers'
            registry, or that sdpa cannot compute, as T5Gemma's, whose attention is capped; each
            row then gets a copy of its context's keys and values.
    """

    def __init__(self, generator: Any, states: Tensor, mask: Tensor) -> None:
        """Compute keys and values.

        Args:
            generator: an encoder-decoder, in evaluation mode.
            states: its encoder's states, shape (C, length, width).
            mask: of the contexts, shape (C, length).
        """
        self.generator, self.mask = generator, mask
        decoder, start = generator.get_decoder(), generator.config.decoder_start_token_id
        both = Cache(DynamicCache(), DynamicCache())
        probe = _Reading([])
        with attention_of(decoder, ATTENTION, _READING, probe):
            decoder(
                input_ids=mask.new_full((len(mask), 1), start, dtype=torch.long),
                encoder_hidden_states=states,
                encoder_attention_mask=mask,
                past_key_values=both,
                use_cache=True,
            )
        self.keys: Any = both.cross_attention_cache
        layers: Any = self.keys.layers
        self.is_shared = all(any(layer.keys is key for key in probe.keys) for layer in layers)

    @contextmanager
    def read_by(self, rows: Tensor, written: DynamicCache | None = None) -> Iterator[Cache]:
        """Let the generator's decoder read, each row of its batch one of the contexts.

        Args:
            rows: the context of each row of the decoder's batch, shape (N,).
            written: keys and values of what each row has written; None for nothing.

        Yields:
            The decoder's cache, of the contexts and of what is written.
        """
        written = DynamicCache() if written is None else written
        if not self.is_shared:
            yield _BeamCache(written, _rows_of(self.keys, rows))
            return
        slots, places = _gather(rows, len(self.mask))
        reading = _Reading([layer.keys for layer in self.keys.layers], slots, places)
        with attention_of(self.generator.get_decoder(), ATTENTION, _READING, reading):
            yield _BeamCache(written, self.keys)

    def encoder_outputs(self, count: int) -> BaseModelOutput:
        """Encoder states of a batch, by shape alone: the decoder has their keys and values."""
        empty = torch.empty(1, 1, 1, dtype=self.generator.dtype, device=self.mask.device)
        return BaseModelOutput(last_hidden_state=empty.expand(count, self.mask.shape[1], 1))


class _BeamCache(Cache):
    """A cache whose rows are only ever exchanged with others of the same context."""

    def reorder_cache(self, beam_idx: Any) -> None:
        self.self_attention_cache.reorder_cache(beam_idx)


def generate_rag_token(
    model: Any, read: SharedContexts, context_rows: Tensor, **options: Any
) -> Tensor:
    """`RagTokenForGeneration.generate` over contexts that are read already.

    It can be given neither encoder states nor another way to exchange beams, so both are put in its
    way.

    Args:
        model: a RagTokenForGeneration.
        read: the contexts.
        context_rows: the context of each row of the search: the passages of a beam together, then
            the beams of a question, shape (B·beams·K,).
        **options: what `generate` takes.

    Returns:
        Its sequences, shape (A, length).
    """
    generator = model.rag.generator
    generator.get_encoder = lambda: lambda **batch: read.encoder_outputs(len(batch["input_ids"]))
    model._reorder_cache = _reorder_groups
    try:
        with read.read_by(context_rows) as cache:
            found: Tensor = model.generate(**{**options, **OWN_CACHE}, past_key_values=cache)
    finally:
        del generator.get_encoder, model._reorder_cache
    return found


def _reorder_groups(cache: Any, beam_idx: Tensor) -> Any:
    """`RagTokenForGeneration._reorder_cache`, for a cache whose contexts stay where they are.

    Args:
        cache: of N·K rows, the K passages of a beam together.
        beam_idx: the beam that each takes over, of the same question, shape (N,).
    """
    n_docs = len(cache.self_attention_cache.layers[0].keys) // len(beam_idx)
    rows = beam_idx.unsqueeze(1) * n_docs + torch.arange(n_docs, device=beam_idx.device)
    cache.self_attention_cache.reorder_cache(rows.view(-1))
    return cache


@dataclass
class _Reading:
    """Which rows read which keys.

    Attributes:
        keys: of each layer, shape (C, heads, length, width of a head).
        slots: rows of the batch that read each context, shape (C, most rows of a context); 0 where
            it has fewer. None while the contexts are read for the first time: `keys` then
            collects the keys of every attention.
        places: where in `slots`, flattened, each row stands, shape (N,).
    """

    keys: list[Tensor]
    slots: Tensor | None = None
    places: Tensor | None = None


_READING: ContextVar[_Reading | None] = ContextVar("reading", default=None)


@contextmanager
def attention_of(decoder: Any, name: str, variable: ContextVar[Any], value: Any) -> Iterator[None]:
    """Let a decoder attend by another of Transformers' kinds of attention.

    Args:
        decoder: the decoder.
        name: of the attention; a decoder that does not look it up attends as ever.
        variable: where the attention finds what it works on.
        value: that.
    """
    before, token = decoder.config._attn_implementation, variable.set(value)
    if decoder._supports_sdpa:
        decoder.config._attn_implementation = name
    try:
        yield
    finally:
        decoder.config._attn_implementation = before
        variable.reset(token)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as Transformers' "sdpa", where several rows of queries may share keys."""
    reading = _READING.get()
    assert reading is not None
    if reading.slots is None:
        reading.keys.append(key)
    if reading.slots is None or not any(key is shared for shared in reading.keys):
        found, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return found, None
    heads, length, width = query.shape[1:]
    asked = query[reading.slots].transpose(1, 2)  # (C, heads, rows of a context, length, width)
    if attention_mask is not None:  # the rows of a context have one mask
        attention_mask = attention_mask[reading.slots[:, 0], :, :1]  # (C, 1, 1, keys)
    if options.get("position_bias") is not None:  # T5's, which is 0 across
        options["position_bias"] = options["position_bias"][:, :, :1]
    options["is_causal"] = False
    found, _ = sdpa_attention_forward(
        module, asked.flatten(2, 3), key, value, attention_mask, **options
    )  # (C, rows of a context · length, heads, width)
    return found.reshape(-1, length, heads, width)[reading.places], None


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _gather(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`slots` and `places` of a `_Reading`, from the context of each row."""
    contexts, order = rows.sort(stable=True)
    number = torch.arange(len(rows), device=rows.device) - torch.searchsorted(contexts, contexts)
    most = int(number.max()) + 1
    slots = rows.new_zeros(count, most)
    slots[contexts, number] = order
    places = torch.empty_like(rows)
    places[order] = contexts * most + number
    return slots, places


def _rows_of(cache: Any, rows: Tensor) -> DynamicCache:
    """Some rows of a cache, copied."""
    taken = DynamicCache()
    for number, layer in enumerate(cache.layers):
        taken.update(layer.keys[rows], layer.values[rows], number)
    return taken
