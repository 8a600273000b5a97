"""Texts to vectors: batches by token budget over texts of like length, in evaluation mode."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.utils.logging import tqdm

if TYPE_CHECKING:
    from rag_finetune.encoders.text_encoder import TextEncoder

TOKENS_PER_BATCH = 16_384
TEXTS_PER_BLOCK = 512  # what a crash loses at most; batches within hold little padding
DTYPES = ("float32", "bfloat16")


def encode_texts(
    encoder: "TextEncoder",
    texts: Sequence[str],
    titles: Sequence[str] | None = None,
    progress: str = "",
) -> np.ndarray:
    """Vectors of texts, in their order; see `TextEncoder.encode`."""
    vectors = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    full = 0
    with tqdm(total=len(texts), desc=progress, unit=" texts", disable=not progress) as bar:
        for start in range(0, len(texts), TEXTS_PER_BLOCK):
            rows = slice(start, start + TEXTS_PER_BLOCK)
            vectors[rows], reached = encode_block(
                encoder, texts[rows], titles[rows] if titles else None, advance=bar.update
            )
            full += len(reached)
    if full:
        warnings.warn(
            f"{full:,} of {len(texts):,} texts reach {encoder.max_length} tokens, the most that "
            "is encoded: what follows has no part in their vectors.",
            stacklevel=2,
        )
    return vectors


def encode_block(
    encoder: "TextEncoder",
    texts: Sequence[str],
    titles: Sequence[str] | None = None,
    *,
    dtype: str = "float32",
    advance: Callable[[int], object] = lambda count: None,
) -> tuple[np.ndarray, list[int]]:
    """Vectors of texts that are held in memory together.

    The batches depend on these texts alone, so that whoever encodes a block gets the same bits.

    Args:
        encoder: tokenises the texts and runs the network.
        texts: what to encode.
        titles: the title of each text; an empty one is left out.
        dtype: what the network computes in: "float32", or "bfloat16" through autocast.
        advance: told the number of texts after each batch.

    Returns:
        The vectors, shape (len(texts), dim) float32 for either dtype, and the rows of the texts
        that reach the encoder's max_length: what follows has no part in their vectors.
    """
    token_ids = encoder.tokenize(list(texts), list(titles or [""] * len(texts)))
    lengths = [len(ids["input_ids"]) for ids in token_ids]
    vectors = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    autocast = torch.autocast(
        encoder.model.device.type, torch.bfloat16, enabled=dtype == "bfloat16"
    )
    with evaluation_mode(encoder.model), torch.inference_mode(), autocast:
        for batch in _batches(lengths):
            vectors[batch] = encoder.forward([token_ids[row] for row in batch])
            advance(len(batch))
    return vectors, [row for row, length in enumerate(lengths) if length >= encoder.max_length]


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off for a while; every part is left as it was, also after an error."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, each of at most TOKENS_PER_BATCH padded tokens."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
