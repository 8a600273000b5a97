"""Texts to vectors: batches by token budget, in evaluation mode."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.utils.logging import tqdm

if TYPE_CHECKING:
    from rag_finetune.encoders.text_encoder import TextEncoder

TOKENS_PER_BATCH = 16_384
TEXTS_PER_BLOCK = 8_192


def encode_texts(
    encoder: "TextEncoder",
    texts: Sequence[str],
    titles: Sequence[str] | None = None,
    progress: str = "",
) -> np.ndarray:
    """Vectors of texts, in their order; see `TextEncoder.encode`."""
    vectors = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    full = 0
    bar = tqdm(total=len(texts), desc=progress, unit=" texts", disable=not progress)
    with evaluation_mode(encoder.model), torch.inference_mode(), bar:
        for start in range(0, len(texts), TEXTS_PER_BLOCK):
            rows = range(start, min(start + TEXTS_PER_BLOCK, len(texts)))
            block_titles = [titles[row] if titles else "" for row in rows]
            token_ids = encoder.tokenize([texts[row] for row in rows], block_titles)
            full += sum(len(ids["input_ids"]) == encoder.max_length for ids in token_ids)
            for batch in _batches([len(ids["input_ids"]) for ids in token_ids]):
                vectors[[rows[i] for i in batch]] = encoder.forward([token_ids[i] for i in batch])
                bar.update(len(batch))
    if full:
        warnings.warn(
            f"{full:,} of {len(texts):,} texts reach {encoder.max_length} tokens, the most that "
            "is encoded: what follows has no part in their vectors.",
            stacklevel=2,
        )
    return vectors


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
