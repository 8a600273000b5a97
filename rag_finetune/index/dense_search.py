"""A dense index opened: searched, and searched with the effort that finds enough."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from rag_finetune.index.dense_file import check_dense, reason_of, refuse_change
from rag_finetune.index.recall import (
    NEIGHBOURS,
    RECALL_BOUND,
    RECALL_TARGET,
    RecallSample,
    Tuned,
    advice,
    draw_questions,
    tune,
)

# Without it FAISS 1.15.1 leaves matrix multiplication to batches of 128,000 numbers, as suits 160
# threads: an exact search for 64 questions takes ten times as long on one. To be deleted with the
# release that brings https://github.com/facebookresearch/faiss/pull/5109
faiss.cvar.distance_compute_blas_threshold = min(128_000, 800 * faiss.omp_get_max_threads())
# Threads wait for each other where a product is of FAISS's own 1,024 vectors. One takes 64 MB here.
faiss.cvar.distance_compute_blas_query_bs = 1_024
faiss.cvar.distance_compute_blas_database_bs = 16_384

NOTHING = np.finfo(np.float32).min  # what FAISS gives for a score where it found too few
MOST_EF_SEARCH = 1024
# A refined index compares this many candidates for each row that it returns.
REFINED_CANDIDATES = 8


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
    scores, ids = _search_live(index, vectors, k)
    return np.where(ids < 0, -np.inf, scores).astype(np.float32), ids


def least_effort(k: int, n: int) -> int:
    """The efSearch that a search for k of n vectors takes at least.

    FAISS's HNSW ends after efSearch candidates, also where k is more.
    """
    return min(2 * k, n)


def _search_live(index: faiss.Index, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows; of an index with tombstones more are fetched, and these left out.

    A tombstone has id −1 and a score; where nothing was found the score is FAISS's lowest. HNSW
    looks on until it has met as many live rows as it would without tombstones.
    """
    effort = least_effort(k, index.ntotal)
    if not isinstance(index, faiss.IndexIDMap) or not len(vectors):
        found: tuple[np.ndarray, np.ndarray] = _search(index, vectors, k, effort)
        return found
    ef_search = _ef_search(index)
    wanted = max(effort, ef_search) if ef_search else k
    scores = np.empty((len(vectors), k), dtype=np.float32)
    ids = np.empty((len(vectors), k), dtype=np.int64)
    left, fetched, most = np.arange(len(vectors)), wanted, index.ntotal
    while left.size:
        fetched = max(k, min(2 * fetched, most))
        more_scores, more_ids = _search(index, vectors[left], fetched, fetched)
        is_live, is_nothing = more_ids >= 0, (more_ids < 0) & (more_scores <= NOTHING)
        order = np.argsort(~is_live, axis=1, kind="stable")[:, :k]  # live ones first, best first
        scores[left] = np.take_along_axis(more_scores, order, 1)
        ids[left] = np.take_along_axis(more_ids, order, 1)
        is_done = (is_live.sum(1) >= wanted) | is_nothing.any(1) | is_live.all(1)
        left = left[~is_done] if fetched < most else left[:0]
    return scores, ids


def _search(index: faiss.Index, vectors: np.ndarray, k: int, effort: int) -> Any:
    """Search with an efSearch of at least this; the index, which threads share, is not changed."""
    return index.search(vectors, k, params=_raised(index, effort))


def _raised(index: faiss.Index, effort: int) -> faiss.SearchParameters | None:
    """Search parameters with a greater efSearch; None where an index has as much, or none."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexHNSW):
        enough = index.hnsw.efSearch >= effort
        return None if enough else faiss.SearchParametersHNSW(efSearch=effort)  # type: ignore[attr-defined]
    if isinstance(index, faiss.IndexIDMap):
        return _raised(index.index, effort)
    if isinstance(index, faiss.IndexPreTransform):
        inner = _raised(index.index, effort)
        return inner and faiss.SearchParametersPreTransform(index_params=inner)  # type: ignore[call-arg]
    if isinstance(index, faiss.IndexRefine):
        inner = _raised(index.base_index, effort)
        return inner and faiss.IndexRefineSearchParameters(  # type: ignore[call-arg]
            k_factor=index.k_factor, base_index_params=inner
        )
    return None


def _ef_search(index: faiss.Index) -> int:
    """The efSearch of an index; 0 where it has none."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexHNSW):
        return int(index.hnsw.efSearch)
    if isinstance(index, (faiss.IndexIDMap, faiss.IndexPreTransform)):
        return _ef_search(index.index)
    return _ef_search(index.base_index) if isinstance(index, faiss.IndexRefine) else 0


def find_effort(
    path: Path,
    vectors: np.ndarray,
    factory: str,
    *,
    target: float = RECALL_TARGET,
    seed: int = 0,
    progress: bool = False,
) -> Tuned:
    """Find the search parameters of a finished index, and measure its recall with them.

    Args:
        path: its file.
        vectors: of all its rows, shape (n, dim).
        factory: what FAISS calls it, for what is printed.
        target: the recall to reach, where an effort reaches it.
        seed: of the sample to measure on.
        progress: print what was measured.

    Returns:
        The parameters for `open_dense`, and recall@5 on a sample. A recall under RECALL_BOUND is
        warned about.
    """
    opened, sample = open_dense(path), RecallSample(vectors, draw_questions(vectors, seed))
    tuned = tune(_efforts(opened), lambda parameters: _measure(opened, sample, parameters), target)
    if progress:
        settings = "".join(f", {name} {value}" for name, value in tuned.parameters.items())
        print(f"{factory}: recall@{NEIGHBOURS} {tuned.recall:.3f}{settings}.", flush=True)
    if tuned.recall < RECALL_BOUND:
        warnings.warn(advice(factory, tuned), stacklevel=3)
    return tuned


def lists_of(index: faiss.Index) -> int:
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
    fixed = {"k_factor_rf": REFINED_CANDIDATES} if takes(index, "k_factor_rf") else {}
    name, value, most = "", 1, 1
    if takes(index, "nprobe"):
        # Not all the lists: that is an exact search with detours.
        name, most = "nprobe", max(1, lists_of(index) // 2)
    elif takes(index, "efSearch"):
        name, value, most = "efSearch", 16, MOST_EF_SEARCH
    while value <= most:
        yield {name: value, **fixed} if name else fixed
        value *= 2


def takes(index: faiss.Index, name: str, value: int = 1) -> bool:
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
