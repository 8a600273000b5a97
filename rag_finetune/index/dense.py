"""FAISS: the one place that touches it."""

from pathlib import Path

import faiss
import numpy as np


def build_flat(vectors: np.ndarray) -> faiss.Index:
    """An exact inner-product index over vectors, shape (n, dim) float32; row i gets id i."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return index


def save_dense(index: faiss.Index, path: Path) -> None:
    """Write an index to a file."""
    faiss.write_index(index, str(path))


def open_dense(path: Path) -> faiss.Index:
    """Open an index without reading it into memory: every process of a machine shares one copy.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an inner-product index; RAG scores by inner product.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Build the index again.")
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: FAISS cannot read this file ({str(error).splitlines()[0]}). "
            "Build the index again."
        ) from error
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError(
            f"{path}: expected an inner-product index, found another metric (L2 is FAISS's and "
            "datasets' default). Build it with `rag-finetune index`."
        )
    return index


def search_dense(index: faiss.Index, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of each vector, best first.

    Args:
        index: an opened index of n rows.
        vectors: shape (batch, dim).
        k: how many rows, at least 1.

    Returns:
        Scores (inner products), shape (batch, k) float32, and row ids, shape (batch, k) int64;
        id −1 with score −inf where the index found fewer.
    """
    scores, ids = index.search(np.ascontiguousarray(vectors, dtype=np.float32), k)
    return np.where(ids < 0, -np.inf, scores).astype(np.float32), ids
