"""Building a dense index with FAISS."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import faiss
import numpy as np
from transformers.utils.logging import tqdm

from rag_finetune.index.dense_file import reason_of, staged_dense
from rag_finetune.index.dense_search import find_effort, lists_of, takes
from rag_finetune.index.types import choose_type

BLOCK_ROWS = 16_384
TRAIN_ROWS = 100_000
TRAIN_ROWS_PER_LIST = 64
ITERATIONS = 20  # of k-means

# FAISS's own 40 leaves rows that no search reaches: recall@5 of real questions 0.85 against 0.975
# at efSearch 64 (60,000 passages of SQuAD), for a third of the time to build.
EF_CONSTRUCTION = 200


@dataclass(frozen=True)
class DenseIndex:
    """What was built, for the manifest.

    Attributes:
        faiss_factory: FAISS's name of this type of index.
        search_parameters: what `open_dense` shall apply; empty where there are none.
        measured_recall: recall@5 against an exact search, on a sample; 1.0 for an exact index.
        reason: why `auto` picked this type; empty where the type was named.
    """

    faiss_factory: str
    search_parameters: dict[str, int]
    measured_recall: float
    reason: str = ""


def build_dense(
    vectors: np.ndarray,
    path: Path,
    index_type: str = "auto",
    *,
    seed: int = 0,
    progress: bool = False,
) -> DenseIndex:
    """Build an inner-product index over vectors and write it to a file; row i gets id i.

    A flat index is written block by block; any other is made in memory. For a seed the file is the
    same on every run, but for HNSW on several threads, which link the rows as they come.

    Args:
        vectors: shape (n, dim) float32, finite, n at least 1; in memory or mapped.
        path: the file to make or to replace, in one step.
        index_type: "auto", "flat", "hnsw", "sq8", "ivf_pq" or a FAISS factory string.
        seed: of the sample to train on and of the sample to measure recall on.
        progress: show a bar, and print what was picked and measured.

    Returns:
        What the manifest records. A recall under RECALL_BOUND is warned about.

    Raises:
        ValueError: FAISS cannot build such an index by inner product over these vectors.
        OSError: the file cannot be written.
    """
    kind = choose_type(index_type, *vectors.shape)
    if progress and kind.reason:
        print(kind.reason, flush=True)
    if kind.factory == "Flat":
        with staged_dense(path) as file:
            _write_flat(vectors, file, progress)
        return DenseIndex("Flat", {}, 1.0, kind.reason)
    index = _make(kind.factory, vectors, seed, progress)
    write_dense(index, path)
    del index  # the mapped one takes no memory
    tuned = find_effort(path, vectors, kind.factory, seed=seed, progress=progress)
    return DenseIndex(kind.factory, tuned.parameters, tuned.recall, kind.reason)


def write_dense(index: faiss.Index, path: Path) -> None:
    """Write an index to a file, in one step.

    Raises:
        OSError: the file cannot be written.
    """
    with staged_dense(path) as file:
        # FAISS's own writer says nothing when the last bytes do not fit on the disk.
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]


def _write_flat(vectors: np.ndarray, file: IO[bytes], progress: bool) -> None:
    """Write what `faiss.write_index` writes of an exact index, without holding the vectors."""
    empty = faiss.IndexFlatIP(vectors.shape[1])
    empty.ntotal = len(vectors)
    file.write(faiss.serialize_index(empty).tobytes()[:-8] + struct.pack("<Q", vectors.size))
    for block in blocks_of(vectors, progress):
        file.write(block.data)


def require_type(index_type: str, n: int, dimension: int) -> str:
    """What FAISS calls an index type; raises before anything is encoded if there is no such type.

    Args:
        index_type: see `build_dense`.
        n: number of vectors.
        dimension: of a vector.

    Raises:
        ValueError: FAISS cannot build it; the message says why.
    """
    factory = choose_type(index_type, n, dimension).factory
    try:
        _empty(factory, dimension)
    except RuntimeError as error:
        raise ValueError(_cannot_build(factory, n, dimension, error)) from error
    return factory


def _empty(factory: str, dimension: int) -> faiss.Index:
    index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise RuntimeError("FAISS builds it by L2 distance only")
    return index


def clusters_of(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which of so many clusters each vector belongs to, by k-means of their distances.

    Args:
        vectors: shape (n, dim), float32.
        count: clusters, at most n.
        seed: of the first means.

    Returns:
        Numbers of clusters, shape (n,); not every cluster need have a vector.

    Raises:
        ValueError: a vector is not finite.
    """
    if not np.isfinite(vectors).all():
        raise ValueError("vectors that are not finite have no clusters: look at the encoder.")
    means = faiss.Kmeans(
        vectors.shape[1], count, niter=ITERATIONS, seed=seed % 2**31, min_points_per_centroid=1
    )
    means.train(vectors)
    found: np.ndarray = means.assign(vectors)[1]
    return found


def _cannot_build(factory: str, n: int, dimension: int, error: RuntimeError) -> str:
    return (
        f'index_type "{factory}": FAISS cannot build it by inner product over {n:,} vectors of '
        f"{dimension} numbers ({reason_of(error)}). Use auto, flat, hnsw, sq8, ivf_pq, or another "
        "factory string."
    )


def _make(factory: str, vectors: np.ndarray, seed: int, progress: bool) -> faiss.Index:
    """An index in memory, trained on a sample and filled."""
    try:
        index = _empty(factory, vectors.shape[1])
        takes(index, "efConstruction", EF_CONSTRUCTION)
        if not index.is_trained:
            index.train(_training_sample(index, vectors, seed))
        # NSG links all rows at once or none.
        for block in [vectors] if "NSG" in factory else blocks_of(vectors, progress):
            index.add(block)
    except RuntimeError as error:
        raise ValueError(_cannot_build(factory, len(vectors), vectors.shape[1], error)) from error
    return index


def _training_sample(index: faiss.Index, vectors: np.ndarray, seed: int) -> np.ndarray:
    """The vectors that an index is trained on, all or a seeded sample, in their order."""
    wanted = max(TRAIN_ROWS, TRAIN_ROWS_PER_LIST * lists_of(index))
    if wanted >= len(vectors):
        return np.ascontiguousarray(vectors, dtype=np.float32)
    rows = np.random.default_rng(seed).choice(len(vectors), wanted, replace=False, shuffle=False)
    return vectors[np.sort(rows)]


def blocks_of(vectors: np.ndarray, progress: bool) -> Iterator[np.ndarray]:
    """Consecutive rows, BLOCK_ROWS at a time, under a bar; raises where one is not finite."""
    with tqdm(total=len(vectors), desc="Indexing", unit=" vectors", disable=not progress) as bar:
        for start in range(0, len(vectors), BLOCK_ROWS):
            block = np.ascontiguousarray(vectors[start : start + BLOCK_ROWS], dtype=np.float32)
            if not np.isfinite(block).all():
                row = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
                raise ValueError(f"vector {row} is not finite: no search would find it.")
            yield block
            bar.update(min(BLOCK_ROWS, len(vectors) - start))
