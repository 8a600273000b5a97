"""FAISS: the one place that touches it."""

import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import faiss
import numpy as np
from transformers.utils.logging import tqdm

from rag_finetune.index.dense_file import check_dense, reason_of, refuse_change, staged_dense
from rag_finetune.index.recall import (
    NEIGHBOURS,
    RECALL_BOUND,
    RecallSample,
    advice,
    draw_questions,
    tune,
)
from rag_finetune.index.types import choose_type

# Without it FAISS 1.15.1 leaves matrix multiplication to batches of 128,000 numbers, as suits 160
# threads: an exact search for 64 questions takes ten times as long on one. To be deleted with the
# release that brings https://github.com/facebookresearch/faiss/pull/5109
faiss.cvar.distance_compute_blas_threshold = min(128_000, 800 * faiss.omp_get_max_threads())
# Threads wait for each other where a product is of FAISS's own 1,024 vectors. One takes 64 MB here.
faiss.cvar.distance_compute_blas_query_bs = 1_024
faiss.cvar.distance_compute_blas_database_bs = 16_384

BLOCK_ROWS = 16_384
TRAIN_ROWS = 100_000
TRAIN_ROWS_PER_LIST = 64

# FAISS's own 40 leaves rows that no search reaches: recall@5 of real questions 0.85 against 0.975
# at efSearch 64 (60,000 passages of SQuAD), for a third of the time to build.
EF_CONSTRUCTION = 200
MOST_EF_SEARCH = 1024
# A refined index compares this many candidates for each row that it returns.
REFINED_CANDIDATES = 8


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
    with staged_dense(path) as file:
        # FAISS's own writer says nothing when the last bytes do not fit on the disk.
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
    del index  # the mapped one takes no memory
    opened, sample = open_dense(path), RecallSample(vectors, draw_questions(vectors, seed))
    tuned = tune(_efforts(opened), lambda parameters: _measure(opened, sample, parameters))
    if progress:
        settings = "".join(f", {name} {value}" for name, value in tuned.parameters.items())
        print(f"{kind.factory}: recall@{NEIGHBOURS} {tuned.recall:.3f}{settings}.", flush=True)
    if tuned.recall < RECALL_BOUND:
        warnings.warn(advice(kind.factory, tuned), stacklevel=2)
    return DenseIndex(kind.factory, tuned.parameters, tuned.recall, kind.reason)


def open_dense(path: Path, search_parameters: Mapping[str, Any] | None = None) -> faiss.Index:
    """Open an index without reading it into memory: every process of a machine shares one copy.

    It cannot be changed: FAISS would abort the process. FAISS may also crash on a truncated file
    that is not flat, so compare its size with the manifest's first.

    Args:
        path: the file.
        search_parameters: as `build_dense` returned them, for example {"nprobe": 16}.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a whole inner-product index (RAG scores by inner product), or
            the index has no such search parameter.
    """
    check_dense(path)
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: FAISS cannot read this file ({reason_of(error)}). Build the index again."
        ) from error
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError(
            f"{path}: expected an inner-product index, found another metric (L2 is FAISS's and "
            "datasets' default). Build it with `rag-finetune index`."
        )
    for name, value in (search_parameters or {}).items():
        _set_parameter(index, name, value, str(path))
    for name in ("add", "add_with_ids", "remove_ids", "train", "reset", "merge_from"):
        setattr(index, name, refuse_change(path))
    return index


def search_dense(index: faiss.Index, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of each vector, best first.

    Args:
        index: an opened index of n rows.
        vectors: shape (batch, dim).
        k: how many rows, at least 1.

    Returns:
        Scores, shape (batch, k) float32, and row ids, shape (batch, k) int64; id −1 with score
        −inf where the index found fewer. The scores are inner products, approximate where the index
        holds the vectors in fewer bits.

    Raises:
        ValueError: a vector is not finite; nothing is nearest to it.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if wrong.size:
        raise ValueError(
            f"{wrong.size} of {len(vectors)} question vectors are not finite, the first is number "
            f"{wrong[0]}. The weights of the question encoder are damaged, or overflow."
        )
    scores, ids = index.search(vectors, k)
    return np.where(ids < 0, -np.inf, scores).astype(np.float32), ids


def _write_flat(vectors: np.ndarray, file: IO[bytes], progress: bool) -> None:
    """Write what `faiss.write_index` writes of an exact index, without holding the vectors."""
    empty = faiss.IndexFlatIP(vectors.shape[1])
    empty.ntotal = len(vectors)
    file.write(faiss.serialize_index(empty).tobytes()[:-8] + struct.pack("<Q", vectors.size))
    for block in _blocks(vectors, progress):
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
        _takes(index, "efConstruction", EF_CONSTRUCTION)
        if not index.is_trained:
            index.train(_training_sample(index, vectors, seed))
        # NSG links all rows at once or none.
        for block in [vectors] if "NSG" in factory else _blocks(vectors, progress):
            index.add(block)
    except RuntimeError as error:
        raise ValueError(_cannot_build(factory, len(vectors), vectors.shape[1], error)) from error
    return index


def _training_sample(index: faiss.Index, vectors: np.ndarray, seed: int) -> np.ndarray:
    """The vectors that an index is trained on, all or a seeded sample, in their order."""
    wanted = max(TRAIN_ROWS, TRAIN_ROWS_PER_LIST * _lists(index))
    if wanted >= len(vectors):
        return np.ascontiguousarray(vectors, dtype=np.float32)
    rows = np.random.default_rng(seed).choice(len(vectors), wanted, replace=False, shuffle=False)
    return vectors[np.sort(rows)]


def _lists(index: faiss.Index) -> int:
    """The number of inverted lists; 0 where an index has none."""
    ivf = faiss.try_extract_index_ivf(index)
    return ivf.nlist if ivf is not None else 0


def _measure(index: faiss.Index, sample: RecallSample, parameters: Mapping[str, int]) -> float:
    """The recall of an index that is searched with these parameters."""
    for name, value in parameters.items():
        _set_parameter(index, name, value, "index")
    return sample.recall(search_dense(index, sample.questions, sample.k)[1])


def _efforts(index: faiss.Index) -> Iterator[dict[str, int]]:
    """Search parameters by rising effort, each step twice the last."""
    fixed = {"k_factor_rf": REFINED_CANDIDATES} if _takes(index, "k_factor_rf") else {}
    name, value, most = "", 1, 1
    if _takes(index, "nprobe"):
        # Not all the lists: that is an exact search with detours.
        name, most = "nprobe", max(1, _lists(index) // 2)
    elif _takes(index, "efSearch"):
        name, value, most = "efSearch", 16, MOST_EF_SEARCH
    while value <= most:
        yield {name: value, **fixed} if name else fixed
        value *= 2


def _takes(index: faiss.Index, name: str, value: int = 1) -> bool:
    """Whether an index has a parameter; it is set."""
    try:
        faiss.ParameterSpace().set_index_parameter(index, name, value)
    except RuntimeError:
        return False
    return True


def _set_parameter(index: faiss.Index, name: str, value: Any, place: str) -> None:
    """Set a search parameter of an index, or raise ValueError."""
    if type(value) is not int or not 1 <= value < 2**31:
        raise ValueError(
            f"{place}: expected a whole number of at least 1 for the search parameter {name}, "
            f"found {value}."
        )
    try:
        faiss.ParameterSpace().set_index_parameter(index, name, value)
    except RuntimeError as error:
        raise ValueError(
            f'{place}: this type of index has no search parameter "{name}". An IVF index has '
            "nprobe, HNSW has efSearch, a refined one has k_factor_rf."
        ) from error


def _blocks(vectors: np.ndarray, progress: bool) -> Iterator[np.ndarray]:
    """Consecutive rows, BLOCK_ROWS at a time, under a bar; raises where one is not finite."""
    with tqdm(total=len(vectors), desc="Indexing", unit=" vectors", disable=not progress) as bar:
        for start in range(0, len(vectors), BLOCK_ROWS):
            block = np.ascontiguousarray(vectors[start : start + BLOCK_ROWS], dtype=np.float32)
            if not np.isfinite(block).all():
                row = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
                raise ValueError(f"vector {row} is not finite: no search would find it.")
            yield block
            bar.update(min(BLOCK_ROWS, len(vectors) - start))
