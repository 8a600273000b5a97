"""What an index will take, told before the hours: disk and memory."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from rag_finetune.encoders.encode import TEXTS_PER_BLOCK, tokens_per_batch
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.dense import TRAIN_ROWS
from rag_finetune.index.types import IVF_BYTES

FLOAT_BYTES = 4
LINK_BYTES = 8 * 32 + 16  # HNSW32
ID_BYTES = 100  # of a token: Python numbers and lists of them
LIBRARIES = 400_000_000  # torch, FAISS and the rest, with nothing to do
# Rows of activations as wide as the network that live at once. A layer's inner width is four
# times that, and held twice; attention scores and what goes in and out make up the rest.
ACTIVATIONS = 16


class Need(NamedTuple):
    """What building an index takes at its peak, in bytes; memory is that of one process."""

    disk: int
    memory: int


def estimate_need(
    encoder: TextEncoder, n_passages: int, text_bytes: int, share_done: float, factory: str
) -> Need:
    """Estimate what is still needed to build an index.

    Args:
        encoder: the context encoder.
        n_passages: number of passages.
        text_bytes: of their Arrow file, which exists already.
        share_done: fraction of the vectors that an earlier try has left on the disk.
        factory: FAISS's name of the index.

    Returns:
        Bytes of disk beyond what is used now, and bytes of memory in all.
    """
    vectors = FLOAT_BYTES * n_passages * encoder.dimension
    dense = n_passages * _bytes_each(factory, encoder.dimension)
    weights = sum(p.numel() * p.element_size() for p in encoder.model.parameters())
    # The work folder's vectors, the passages with their vectors, the FAISS file.
    disk = round((1 - share_done) * vectors) + (text_bytes + vectors) + dense
    width = getattr(encoder.model.config, "hidden_size", encoder.dimension)
    tokens = max(tokens_per_batch(encoder.model), encoder.max_length)  # one text at least
    batch = tokens * width * ACTIVATIONS * FLOAT_BYTES
    block = TEXTS_PER_BLOCK * (encoder.dimension * FLOAT_BYTES * 2 + encoder.max_length * ID_BYTES)
    # Encoding is over before a FAISS index is made; only a flat one goes straight to the disk.
    sample = min(vectors, TRAIN_ROWS * FLOAT_BYTES * encoder.dimension) if dense < vectors else 0
    largest = max(batch + block, dense + sample if factory != "Flat" else 0)
    return Need(disk + (weights if encoder.local else 0), LIBRARIES + weights + largest)


def estimate_version(n_passages: int, dimension: int, text_bytes: int, factory: str) -> Need:
    """Estimate what a new version of an index takes beside the old one, encoding aside.

    Args:
        n_passages: number of its passages.
        dimension: of a vector.
        text_bytes: of all passages.
        factory: FAISS's name of the index.

    Returns:
        Bytes of disk beyond what is used now, and bytes of memory in all.
    """
    vectors = FLOAT_BYTES * n_passages * dimension
    dense = n_passages * _bytes_each(factory, dimension)
    # The vectors in their new order, the passages with their vectors, the FAISS file.
    return Need(2 * vectors + text_bytes + dense, LIBRARIES + (dense if factory != "Flat" else 0))


def _bytes_each(factory: str, dimension: int) -> int:
    """Bytes that an index holds of a vector: the whole of it where the name tells no less."""
    links = LINK_BYTES if re.match(r"HNSW", factory) else 0
    lists = IVF_BYTES if "IVF" in factory else 0
    code = re.fullmatch(r"(?:IVF\d+,|HNSW\d*,)?(?:SQ(8)|PQ(\d+)(?:np)?)", factory)
    if not code:
        return FLOAT_BYTES * dimension + links + lists
    return (dimension if code[1] else int(code[2])) + links + lists


def require_disk(folder: Path, need: int) -> None:
    """Raise where the disk of a folder cannot hold what is needed.

    Raises:
        OSError: it cannot; the message has both figures.
    """
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(
            f"{folder}: the index needs {format_bytes(need)} of disk while it is built, "
            f"{format_bytes(free)} are free. Free some, or choose a folder on another disk."
        )


def format_bytes(count: float) -> str:
    """A number of bytes as people say it, in powers of ten."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return (
                f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
            )
        count /= 1000
    return f"{count:.1f} TB"


def format_seconds(seconds: float) -> str:
    """A duration as people say it: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
