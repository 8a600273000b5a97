"""An index written anew from the old one and what comes to it: passages, vectors, words."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers.utils.logging import tqdm

from rag_finetune.data.repeats import KeyLog
from rag_finetune.index.changes import Changes
from rag_finetune.index.corpus import COLUMNS, passage_texts, write_with_vectors
from rag_finetune.index.dense import build_dense
from rag_finetune.index.dense_search import find_effort
from rag_finetune.index.dense_update import can_grow, grow_dense
from rag_finetune.index.estimate import estimate_version, format_bytes, require_disk
from rag_finetune.index.lexical import build_lexical
from rag_finetune.index.manifest import Manifest, library_versions
from rag_finetune.index.recall import RECALL_TARGET
from rag_finetune.index.store import DENSE, PASSAGES, PassageIndex

ROWS_PER_BLOCK = 4_096
VECTORS = "rows.f32"


class Arrivals(NamedTuple):
    """Passages that come to an index, columns id, document_id, title and text, and their vectors.

    The vectors have shape (n, dim) float32; None for an index without.
    """

    texts: Dataset
    vectors: np.ndarray | None


def write_version(
    index: PassageIndex,
    changes: Changes,
    arrivals: Arrivals | None,
    work: Path,
    folder: Path,
    *,
    index_type: str = "",
    progress: bool = False,
) -> Manifest:
    """Write the files of a new version; an index by words, and any but a flat one, in memory.

    Args:
        index: the old version, opened.
        changes: what stands at each row.
        arrivals: the passages that `changes` speaks of as new; None for none.
        work: a folder for what is not kept.
        folder: the folder to make.
        index_type: builds the FAISS file anew, of this type, as `build_dense` takes it; empty to
            carry the old one over where FAISS can add to it (HNSW, IVF), which leaves tombstones.
        progress: show bars, and print what was measured.

    Returns:
        The manifest of the new version, without the sizes of its files.

    Raises:
        ValueError: the index type does not fit these vectors.
        OSError: the disk is too small, or the like.
    """
    texts = index.passages.select_columns(list(COLUMNS))
    if arrivals is not None:
        texts = concatenate_datasets([texts, arrivals.texts])
    texts = texts.select(changes.order)
    _require_room(index, len(changes.order), arrivals, work, progress)
    folder.mkdir()
    dense: dict[str, Any] = {}
    if index.manifest.has_vectors:
        vectors = _gather_vectors(index, changes, arrivals, work / VECTORS, progress)
        write_with_vectors(texts, vectors, folder / PASSAGES)
        dense = _write_dense(index, changes, vectors, folder / DENSE, index_type, progress)
        (work / VECTORS).unlink()
    else:
        write_with_vectors(texts, None, folder / PASSAGES)
    for kind, settings in index.manifest.lexical.items():
        build_lexical(passage_texts(texts), folder / kind, kind, **settings)
    return replace(
        index.manifest,
        n_passages=len(texts),
        n_documents=_count_documents(texts),
        library_versions=library_versions(),
        **dense,
    )


def _require_room(
    index: PassageIndex, n: int, arrivals: Arrivals | None, work: Path, progress: bool
) -> None:
    """Say what the new version will take, and raise where the disk is too small."""
    manifest = index.manifest
    files = [
        *index.passages.cache_files,
        *(arrivals.texts.cache_files if arrivals is not None else []),
    ]
    size = sum(os.path.getsize(file["filename"]) for file in files)
    text_bytes = max(0, size - 4 * manifest.n_passages * manifest.dimension)
    need = estimate_version(n, manifest.dimension, text_bytes, manifest.faiss_factory)
    if progress:
        print(
            f"Writing {n:,} passages beside the old ones: about {format_bytes(need.disk)} of disk "
            f"and {format_bytes(need.memory)} of memory.",
            flush=True,
        )
    require_disk(work, need.disk)


def _gather_vectors(
    index: PassageIndex,
    changes: Changes,
    arrivals: Arrivals | None,
    path: Path,
    progress: bool,
) -> np.ndarray:
    """Write the vectors of the new rows to a file; mapped, shape (n, dim) float32."""
    n, dimension = len(changes.order), index.manifest.dimension
    with (
        open(path, "wb") as file,  # stores into a mapping would end the process on a full disk
        tqdm(total=n, desc="Copying vectors", unit=" vectors", disable=not progress) as bar,
    ):
        for start in range(0, n, ROWS_PER_BLOCK):
            rows = changes.order[start : start + ROWS_PER_BLOCK]
            is_new = rows >= changes.n_old
            block = index.vectors_at(np.where(is_new, -1, rows))
            if arrivals is not None and arrivals.vectors is not None:
                block[is_new] = arrivals.vectors[rows[is_new] - changes.n_old]
            file.write(block.tobytes())
            bar.update(len(rows))
    return np.memmap(path, dtype=np.float32, mode="r", shape=(n, dimension))


def _write_dense(
    index: PassageIndex,
    changes: Changes,
    vectors: np.ndarray,
    path: Path,
    index_type: str,
    progress: bool,
) -> dict[str, Any]:
    """Write the FAISS file; what the manifest says of it."""
    old = index.manifest
    if index_type or not can_grow(old.faiss_factory):
        built = build_dense(vectors, path, index_type or old.faiss_factory, progress=progress)
        found: dict[str, Any] = {"faiss_factory": built.faiss_factory}
        found |= {"index_type": index_type or old.index_type, "tombstones": 0, "additions": 0}
        parameters, recall = built.search_parameters, built.measured_recall
    else:
        added = changes.added()
        tombstones = grow_dense(
            index.parts / DENSE, path, changes.rows(), vectors, added, progress=progress
        )
        found = {"tombstones": tombstones, "additions": old.additions + len(added)}
        # What was found before shall be found still, if it takes a greater effort.
        target = max(RECALL_TARGET, old.measured_recall)
        tuned = find_effort(path, vectors, old.faiss_factory, target=target, progress=progress)
        parameters, recall = tuned.parameters, tuned.recall
    if found.get("faiss_factory", old.faiss_factory) == old.faiss_factory:
        # A greater effort was chosen, by `tune-retrieval` perhaps. nprobe is of a number of lists.
        kept = old.search_parameters
        parameters = {name: max(value, kept.get(name, value)) for name, value in parameters.items()}
    return {**found, "search_parameters": parameters, "measured_recall": recall}


def _count_documents(texts: Dataset) -> int:
    """How many documents passages come from; eight bytes a document are held."""
    documents, last = KeyLog(), None
    column = texts.select_columns(["document_id"]).with_format("arrow")
    for start in range(0, len(texts), ROWS_PER_BLOCK):
        for document in column[start : start + ROWS_PER_BLOCK]["document_id"].to_pylist():
            if document != last:  # the pieces of a document follow each other
                documents.add(document)
                last = document
    return len(documents) - len(documents.suspects())
