"""A dense index carried over to other rows, where building it again would take long.

An IVF index gives up vectors for good, and its ids are numbered anew; its lists stay as they were
learnt. FAISS's HNSW has no way to remove a vector, nor has an index that is refined by whole
vectors: theirs stay, under an `IndexIDMap` that gives each its row among the passages of now, or
−1: a tombstone, which a search passes through and does not return. Plain `RagRetriever` refuses an
index with tombstones, by its count of vectors, and would else take −1 for the last passage.
"""

import re
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from rag_finetune.index.dense import blocks_of, write_dense
from rag_finetune.index.dense_file import check_dense, reason_of


def can_grow(factory: str) -> bool:
    """Whether vectors are added to an index of this type; any other is as quickly built again.

    NSG links all its rows at once.
    """
    return bool(re.search("HNSW|IVF", factory)) and "NSG" not in factory


def grow_dense(
    old: Path,
    new: Path,
    rows: np.ndarray,
    vectors: np.ndarray,
    added: np.ndarray,
    *,
    progress: bool = False,
) -> int:
    """Write an index of other rows: those that stay, less those that are gone, and new ones.

    Args:
        old: the file of an index for which `can_grow` holds; left as it is.
        new: the file to make.
        rows: the row that each of the old rows has from now on, −1 for none, shape (n_old,).
        vectors: of all rows from now on, shape (n, dim) float32.
        added: those of them that are new, ascending.
        progress: show a bar.

    Returns:
        Its tombstones: vectors of rows that are gone, by this or an earlier change.

    Raises:
        ValueError: FAISS cannot read the file, or cannot add to it.
        OSError: the file cannot be written.
    """
    check_dense(old)
    try:
        index: Any = faiss.read_index(str(old))  # a mapped one cannot be added to
        lists = faiss.downcast_index(index.index) if _is_transformed(index) else index
        if isinstance(lists, faiss.IndexIVF):
            _renumber(lists, index, rows)
            return _add(index, vectors, added, new, progress)
        index = _as_map(index)
        ids = faiss.vector_to_array(index.id_map)
        ids[ids >= 0] = rows[ids[ids >= 0]]
        faiss.copy_array_to_vector(ids, index.id_map)
        return _add(index, vectors, added, new, progress)
    except RuntimeError as error:
        raise ValueError(f"{old}: FAISS cannot add to this index ({reason_of(error)}).") from error


def _add(
    index: faiss.Index, vectors: np.ndarray, added: np.ndarray, path: Path, progress: bool
) -> int:
    """Add the new rows and write the file; the number of tombstones."""
    start, tombstones = 0, 0
    for block in blocks_of(_Rows(vectors, added), progress):  # type: ignore[arg-type]
        index.add_with_ids(block, added[start : start + len(block)].astype(np.int64))
        start += len(block)
    if isinstance(index, faiss.IndexIDMap):
        ids = faiss.vector_to_array(index.id_map)
        tombstones = int((ids < 0).sum())
        if np.array_equal(ids, np.arange(len(vectors))):
            index = faiss.downcast_index(index.index)  # which needs no map
    write_dense(index, path)
    return tombstones


def _renumber(lists: Any, index: Any, rows: np.ndarray) -> None:
    """Take the rows that are gone out of the lists, and give the others their new numbers.

    Args:
        lists: the IVF index, in memory.
        index: the same, or what transforms vectors in front of them.
        rows: the new row of each old one, −1 for none.
    """
    index.remove_ids(np.flatnonzero(rows < 0).astype(np.int64))
    stored = lists.invlists
    for number in range(lists.nlist):
        size = stored.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(stored.get_ids(number), size)
            ids[:] = rows[ids]


def _is_transformed(index: faiss.Index) -> bool:
    return isinstance(index, faiss.IndexPreTransform)


def _as_map(index: faiss.Index) -> faiss.IndexIDMap:
    """An index under the map from its own numbers to rows; at first they are the same."""
    if isinstance(index, faiss.IndexIDMap):
        return index
    mapped = faiss.IndexIDMap(faiss.IndexFlatIP(index.d))  # FAISS maps empty ones only
    index.this.disown()  # type: ignore[attr-defined]
    mapped.index, mapped.own_fields = index, True
    mapped.ntotal, mapped.is_trained = index.ntotal, index.is_trained
    faiss.copy_array_to_vector(np.arange(index.ntotal, dtype=np.int64), mapped.id_map)
    return mapped


class _Rows:
    """Some rows of vectors, read a block at a time."""

    def __init__(self, vectors: np.ndarray, rows: np.ndarray) -> None:
        self._vectors, self._rows = vectors, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice) -> np.ndarray:
        found: np.ndarray = self._vectors[self._rows[part]]
        return found
