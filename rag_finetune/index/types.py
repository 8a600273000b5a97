"""Types of dense index by name: which FAISS factory string a name stands for, and what auto picks.

Sizes and the recall of each are measured by benchmarks/bench_index_types.py; the README has the
table.
"""

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

TYPES = ("auto", "flat", "hnsw", "sq8", "ivf_pq")

# An exact search of this many vectors of 768 numbers reads 3 GB: a quarter of a second on 16 cores.
FLAT_LIMIT = 1_000_000
# k-means needs 39 vectors a centroid to be worth anything, and FAISS warns below that; 8-bit codes
# have 256 centroids.
VECTORS_PER_CENTROID = 39
IVF_PQ_LEAST = 256 * VECTORS_PER_CENTROID
HNSW_LINKS = 32
# Beside its code a vector takes an id and its share of the lists.
IVF_BYTES = 16


class IndexType(NamedTuple):
    """What will be built.

    Attributes:
        factory: FAISS's name for it.
        reason: why `auto` picked it, a sentence; empty where the type was named.
    """

    factory: str
    reason: str = ""


def choose_type(index_type: str, n: int, dimension: int, memory: int | None = None) -> IndexType:
    """Turn the name of an index type into a FAISS factory string.

    Args:
        index_type: one of TYPES, or a FAISS factory string, which is passed on.
        n: number of vectors.
        dimension: of a vector.
        memory: of this machine, in bytes; None to ask it.

    Raises:
        ValueError: `ivf_pq` with too few vectors to train on, or a factory string with a number
            that FAISS does not survive.
    """
    if index_type == "auto":
        return _choose(n, dimension, machine_memory() if memory is None else memory)
    if index_type == "ivf_pq" and n < IVF_PQ_LEAST:
        raise ValueError(
            f"index_type ivf_pq: expected at least {IVF_PQ_LEAST:,} passages to train on, found "
            f"{n:,}. Use flat, which is exact and fast at this size."
        )
    named = {
        "flat": "Flat",
        "hnsw": f"HNSW{HNSW_LINKS},Flat",
        "sq8": "SQ8",
        "ivf_pq": _ivf_pq(n, dimension),
    }
    factory = named.get(index_type, index_type)
    # FAISS 1.15.1 aborts the process, or runs for ever, on these instead of refusing them.
    fatal = re.search(r"(?:HNSW|NSG)[01](?!\d)|(?<!\d)0+(?!\d)", factory)
    if fatal:
        raise ValueError(f'index_type "{factory}": "{fatal[0]}" must be a larger number.')
    return IndexType(factory)


def machine_memory() -> int:
    """Bytes of memory that this machine has, or this container may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # holds "max" where there is none
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else ""
    return min(total, int(text)) if text.isdigit() else total


def _choose(n: int, dimension: int, memory: int) -> IndexType:
    """Exact while that is fast; then what finds most among those that fit in half the memory."""
    if n <= FLAT_LIMIT:
        return IndexType(
            "Flat", f"flat: exact, and fast enough up to {FLAT_LIMIT:,} passages, found {n:,}."
        )
    bytes_each = {
        f"HNSW{HNSW_LINKS},Flat": 4 * dimension + 8 * HNSW_LINKS + IVF_BYTES,
        f"IVF{_lists(n)},SQ8": dimension + IVF_BYTES,
        _ivf_pq(n, dimension): _codes(dimension) + IVF_BYTES,
    }
    fitting = [factory for factory, size in bytes_each.items() if n * size <= memory / 2]
    factory = fitting[0] if fitting else list(bytes_each)[-1]
    fits = "fits" if fitting else "is the smallest, though it does not fit"
    return IndexType(
        factory,
        f"{factory}: {n:,} passages are over {FLAT_LIMIT:,}, too many to compare each; at "
        f"{n * bytes_each[factory] / 1e9:.1f} GB it {fits} in half of the memory of this machine "
        f"({memory / 1e9:.1f} GB).",
    )


def _lists(n: int) -> int:
    """Inverted lists for n vectors: the power of two near 4·√n, each with enough to train on."""
    wanted = 2 ** round(math.log2(4 * math.sqrt(n)))
    return max(1, min(wanted, n // VECTORS_PER_CENTROID))


def _ivf_pq(n: int, dimension: int) -> str:
    """Inverted lists of product-quantised vectors."""
    # "np": without the polysemous training, which takes minutes for a search that nobody makes.
    return f"IVF{_lists(n)},PQ{_codes(dimension)}np"


def _codes(dimension: int) -> int:
    """Bytes of a product-quantised vector: one for every 2 of its numbers, where 2 divides them."""
    return dimension // 2 if dimension % 2 == 0 else dimension
