"""Texts to vectors: batches by token budget over texts of like length, in evaluation mode."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from transformers.utils.logging import tqdm

from rag_finetune.encoders.first_token import first_token_alone

if TYPE_CHECKING:
    from rag_finetune.encoders.text_encoder import TextEncoder

TOKENS_PER_BATCH = 16_384
# On a processor: tokens times width. glibc takes blocks above 32 MiB from the system anew each
# time, a page after the other, and gives smaller ones back once many are free: a sixth of the time
# of BERT-base in float32 on one core (EPYC); none of it at this size, whose widest are 12 MiB.
CPU_NUMBERS_PER_BATCH = 1_024 * 768
# A batch of so many ends where the next text would be padded by an eighth. Batches of a processor
# are smaller where the network is wider than 384.
ENOUGH_TOKENS = 2_048
TEXTS_PER_BLOCK = 512  # what a crash loses at most; batches within hold little padding
DTYPES = ("float32", "bfloat16", "auto")

TokenIds = dict[str, list[int]]  # input_ids, attention_mask, … of a text
Item = TypeVar("Item")
Read = TypeVar("Read")


def encode_texts(
    encoder: "TextEncoder",
    texts: Sequence[str],
    titles: Sequence[str] | None = None,
    progress: str = "",
) -> np.ndarray:
    """Vectors of texts, in their order; see `TextEncoder.encode`."""
    vectors = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    full = 0

    def read(start: int) -> tuple[slice, list[TokenIds]]:
        rows = slice(start, start + TEXTS_PER_BLOCK)
        return rows, tokenize_block(encoder, texts[rows], titles[rows] if titles else None)

    with tqdm(total=len(texts), desc=progress, unit=" texts", disable=not progress) as bar:
        for rows, token_ids in read_ahead(range(0, len(texts), TEXTS_PER_BLOCK), read):
            vectors[rows], reached = encode_block(
                encoder, texts[rows], token_ids=token_ids, advance=bar.update
            )
            full += len(reached)
    if full:
        warnings.warn(
            f"{full:,} of {len(texts):,} texts reach {encoder.max_length} tokens, the most that "
            "is encoded: what follows has no part in their vectors.",
            stacklevel=2,
        )
    return vectors


def tokenize_block(
    encoder: "TextEncoder", texts: Sequence[str], titles: Sequence[str] | None = None
) -> list[TokenIds]:
    """Token ids of each text with its title; an empty title, or None for all, is left out."""
    return encoder.tokenize(list(texts), list(titles or [""] * len(texts)))


def encode_block(
    encoder: "TextEncoder",
    texts: Sequence[str],
    titles: Sequence[str] | None = None,
    *,
    token_ids: Sequence[TokenIds] | None = None,
    dtype: str = "float32",
    advance: Callable[[int], object] = lambda count: None,
) -> tuple[np.ndarray, list[int]]:
    """Vectors of texts that are held in memory together.

    The batches depend on these texts, the network's width and the kind of device, so that whoever
    encodes a block on such a device gets the same bits.

    Args:
        encoder: tokenises the texts and runs the network.
        texts: what to encode.
        titles: the title of each text; an empty one is left out.
        token_ids: what `tokenize_block` makes of both, where that is known already.
        dtype: what the network computes in: "float32", or "bfloat16" through autocast.
        advance: told the number of texts after each batch.

    Returns:
        The vectors, shape (len(texts), dim) float32 for either dtype, and the rows of the texts
        that reach the encoder's max_length: what follows has no part in their vectors.
    """
    if token_ids is None:
        token_ids = tokenize_block(encoder, texts, titles)
    lengths = [len(ids["input_ids"]) for ids in token_ids]
    vectors = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    autocast = torch.autocast(
        encoder.model.device.type, torch.bfloat16, enabled=dtype == "bfloat16"
    )
    inference = torch.inference_mode()
    with evaluation_mode(encoder.model), first_token_alone(encoder.model), inference, autocast:
        for batch in length_batches(lengths, tokens_per_batch(encoder.model)):
            vectors[batch] = encoder.forward([token_ids[row] for row in batch])
            advance(len(batch))
    return vectors, [row for row, length in enumerate(lengths) if length >= encoder.max_length]


def read_ahead(items: Iterable[Item], read: Callable[[Item], Read]) -> Iterator[Read]:
    """What `read` gives of each item, in order; a thread reads the next while one is worked on.

    No more than two are held.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming: Future[Read] | None = None
        for item in items:
            following = thread.submit(read, item)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def best_dtype(device: torch.device | str) -> str:
    """What a device multiplies matrices in fastest: "bfloat16" where it has units for it."""
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    cpu: Any = torch.cpu  # AMX, or the dot products of AVX-512
    has_units = cpu._is_amx_tile_supported() or cpu._is_avx512_bf16_supported()
    is_cpu = torch.device(device).type == "cpu"
    return "bfloat16" if is_cpu and has_units else "float32"


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


def tokens_per_batch(model: Any) -> int:
    """Padded tokens that a batch has at most, where a network gives states and keeps none."""
    if model.device.type != "cpu":
        return TOKENS_PER_BATCH
    width = getattr(model.config, "hidden_size", 768)
    return min(TOKENS_PER_BATCH, CPU_NUMBERS_PER_BATCH // width)


def length_batches(
    lengths: Sequence[int], most_tokens: int | None = None, most_texts: int | None = None
) -> Iterator[list[int]]:
    """Row numbers in batches of similar length.

    Args:
        lengths: tokens of each text.
        most_tokens: padded tokens a batch at most; a text that is longer is one alone. None for
            TOKENS_PER_BATCH.
        most_texts: texts a batch at most; None for no such limit.
    """
    most_tokens = TOKENS_PER_BATCH if most_tokens is None else most_tokens
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch:
            longest = lengths[batch[0]]
            is_full = (len(batch) + 1) * longest > most_tokens or len(batch) == most_texts
            is_shorter = lengths[row] < longest * 7 / 8
            if is_full or (is_shorter and len(batch) * longest >= ENOUGH_TOKENS):
                yield batch
                batch = []
        batch.append(row)
    if batch:
        yield batch
