"""rag_index.json: what a checkpoint writes down about its index."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from rag_finetune.files import describe, read_text, write_json
from rag_finetune.index.store import PassageIndex
from rag_finetune.rag.index_choice import OWN
from rag_finetune.retrieval.way import Retrieval, choose_retrieval, retrieval_of

INDEX_REFERENCE = "rag_index.json"
FORMAT_VERSION = 1


def load_index_reference(folder: Path) -> dict[str, Any]:
    """What a checkpoint says about its index.

    `index`, a relative path or None; `fingerprint` of the vectors, and `retrieval`, the way that
    it was trained with, where they are known.

    An empty dict when the folder holds no such file, as one from the Hub does not.

    Raises:
        ValueError: the file is damaged, or of another format.
    """
    path = folder / INDEX_REFERENCE
    if not path.is_file():
        return {}
    try:
        reference: dict[str, Any] = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}).") from error
    if not isinstance(reference, dict):
        raise ValueError(f"{path}: expected an object, found {describe(reference)}.")
    version = reference.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected format_version {FORMAT_VERSION}, found {version}. Load the "
            "checkpoint with the release of rag-finetune that wrote it, or assemble it again."
        )
    return reference


def write_index_reference(
    folder: Path,
    index: PassageIndex,
    path: str | None,
    retrieval: Retrieval | None = None,
) -> None:
    """Write down in a checkpoint where its index is and which encoder's vectors it must hold.

    Args:
        folder: the checkpoint.
        index: the opened index.
        path: its folder relative to the checkpoint; None when it is to be named on loading.
        retrieval: the way of retrieval to remember; None for the index's own.
    """
    encoder = index.manifest.encoder
    reference: dict[str, Any] = {"format_version": FORMAT_VERSION, "index": path}
    if index.manifest.has_vectors:
        reference["fingerprint"] = index.manifest.fingerprint
        reference["context_encoder"] = {key: encoder[key] for key in ("name", "revision")}
    if retrieval is not None:
        reference["retrieval"] = retrieval.data()
    write_json(folder / INDEX_REFERENCE, reference)


def note_own_encoder(folder: Path, fingerprint: str) -> None:
    """Write down in a checkpoint that it has a context encoder of its own, beside its index.

    An index of that encoder's vectors may then be given in place of the checkpoint's.
    """
    write_json(folder / INDEX_REFERENCE, {**load_index_reference(folder), OWN: fingerprint})


def retrieval_for(
    folder: Path, index: PassageIndex, way: str | None = None, prior: float | None = None
) -> Retrieval:
    """The way that a checkpoint searches an index: by flags, by its memory, or the index's own.

    Args:
        folder: the checkpoint.
        index: the opened index, its own or another.
        way: what a flag says; None for nothing.
        prior: λ, likewise.

    Raises:
        ValueError: the index cannot be searched this way.
    """
    remembered = load_index_reference(folder).get("retrieval")
    return choose_retrieval(index, way, prior, remembered=remembered, place=str(folder))


def remember_retrieval(folder: Path, retrieval: Retrieval) -> bool:
    """Write another way of retrieval into what a checkpoint says about its index.

    Its prior stays as it was trained with.

    Returns:
        Whether there was such a file; one from the Hub has none.
    """
    reference = load_index_reference(folder)
    if reference:
        before = reference.get("retrieval")
        if before:
            retrieval = replace(retrieval, prior=retrieval_of(before, str(folder)).prior)
        write_json(folder / INDEX_REFERENCE, {**reference, "retrieval": retrieval.data()})
    return bool(reference)


def relative_path(target: Path, start: Path) -> str:
    """The way from one folder to another, links followed: ".." leads out of where a link leads."""
    return os.path.relpath(target.resolve(), start.resolve())
