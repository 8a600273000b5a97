"""Keep an index up to date: documents that come, change or go; nothing else is encoded again."""

import hashlib
import json
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as with_values
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.changes import Changes, plan_changes
from rag_finetune.index.corpus import FEATURES, open_passages, write_passages
from rag_finetune.index.dense import require_type
from rag_finetune.index.job import TEXTS, IndexJob
from rag_finetune.index.lexical import require_lexical
from rag_finetune.index.manifest import NEXT, Manifest, load_manifest
from rag_finetune.index.processes import World
from rag_finetune.index.rewrite import Arrivals, write_version
from rag_finetune.index.store import CONTEXT_ENCODER, PassageIndex, open_index
from rag_finetune.index.versions import claimed_index, switch

MOST_TOMBSTONES = 0.2  # share of the vectors of a FAISS file; each costs a search its time
MOST_ADDITIONS = 0.5  # share of the passages that the lists of an IVF index were not made for

Passages = Iterable[Mapping[str, Any]]


def update_index(
    folder: str | Path,
    *,
    add: Passages = (),
    replace: Passages = (),
    remove: Collection[str] = (),
    encoder: TextEncoder | None = None,
    locate: Callable[[list[str]], Mapping[str, str]] | None = None,
    progress: bool = False,
) -> PassageIndex:
    """Bring an index up to date in its folder; whoever has it open keeps the version that he has.

    Until the new version is whole the old one is opened, from then on the new one, also where the
    process is killed (`versions.py` says how). The same call again goes on from where a killed one
    was, or finds its work done. Passages stand in the order of a fresh build on the passages of
    now: replaced documents in place, new ones at the end. A flat index, and any type to which FAISS
    cannot add, then equals a fresh build, as do indexes by words; IVF keeps its lists, and HNSW its
    graph, in which vectors of passages that are gone stay as tombstones that no search returns.

    Args:
        folder: the index folder.
        add: passages of documents that are not in the index, as `build_index` takes them, cut as
            the others were (`passage_words` of the manifest).
        replace: passages of documents that are; all old passages of a document give way.
        remove: ids of passages, and of documents, all of whose passages go.
        encoder: the index's own context encoder, from `load_own_encoder`; None to load it where
            there is something to encode.
        locate: says where documents of given ids stand, to name those that are too long.
        progress: show bars, and print estimates.

    Returns:
        The opened new version.

    Raises:
        FileNotFoundError: it is no index folder.
        ValueError: an id to remove or to replace is not in the index, or one to add is; nothing
            would be left; a passage is malformed; or the encoder is another one.
        BlockingIOError: another process is changing the index.
        OSError: the folder cannot be written, or the disk is too small.
    """
    folder = Path(folder).absolute()
    counts = {"replace": 0, "add": 0}
    coming = chain(_counted(replace, "replace", counts), _counted(add, "add", counts))
    first = next(coming, None)
    if first is None and not remove:
        raise ValueError(f"{folder}: nothing to add, to replace or to remove was given.")
    with claimed_index(folder) as work:
        index = open_index(folder)
        for kind, settings in index.manifest.lexical.items():
            require_lexical(kind, settings.get("language"))
        taken = _Taken()
        if first is not None:
            taken = _take(work, index, chain([first], coming), encoder)
        request = _digest(taken.digest, counts["replace"], remove)
        if request == index.manifest.last_update:
            _say(f"{folder}: this update was made already.", progress)
            return index
        new = taken.texts
        changes = plan_changes(index.passages, new, counts["replace"], remove, progress=progress)
        _say(_summary(changes, counts), progress)
        arrivals = Arrivals(new, _encode(taken, locate, progress)) if len(new) else None
        version = write_version(index, changes, arrivals, work, folder / NEXT, progress=progress)
        switch(folder, with_values(version, last_update=request))
    return _opened(folder)


def compact_index(
    folder: str | Path, *, index_type: str | None = None, progress: bool = False
) -> PassageIndex:
    """Build the FAISS file of an index anew from its vectors, without tombstones.

    Nothing is encoded. The folder is changed as `update_index` changes it. An index without
    tombstones or added vectors, and of the type that is asked for, is left as it is.

    Args:
        folder: the index folder.
        index_type: as `build_index` takes it; None for the one that the index was built with.
        progress: show bars, and print estimates.

    Returns:
        The opened index.

    Raises:
        FileNotFoundError: it is no index folder.
        ValueError: the index type does not fit these vectors.
        BlockingIOError: another process is changing the index.
        OSError: the folder cannot be written, or the disk is too small.
    """
    folder = Path(folder).absolute()
    with claimed_index(folder) as work:
        index = open_index(folder)
        manifest = index.manifest
        if index_type and not manifest.has_vectors:
            raise ValueError(f"{folder}: holds no vectors, so it has no index_type.")
        wanted = index_type or manifest.index_type
        is_grown = bool(manifest.tombstones or manifest.additions)
        n, dimension = manifest.n_passages, manifest.dimension
        if index_type or is_grown:
            factory = require_type(wanted, n, dimension)
            if is_grown or factory != manifest.faiss_factory:
                changes = Changes(np.arange(n), n, 0, 0)
                version = write_version(
                    index, changes, None, work, folder / NEXT, index_type=wanted, progress=progress
                )
                switch(folder, version)
                return open_index(folder)
        _say(f"{folder}: has no tombstones, nothing to do.", progress)
    return index


def load_own_encoder(folder: str | Path) -> TextEncoder:
    """Load the context encoder that the vectors of an index are from.

    Args:
        folder: the index folder; its own `context_encoder/`, or the Hub name in its manifest.

    Raises:
        FileNotFoundError: it is no index folder.
        ValueError: what was found encodes in another way than the vectors were.
    """
    manifest = load_manifest(Path(folder))
    settings, own = manifest.encoder, Path(folder) / CONTEXT_ENCODER
    if own.is_dir():
        encoder = load_context_encoder(str(own), settings["max_length"])
    else:
        encoder = load_context_encoder(
            settings["name"],
            settings["max_length"],
            pooling=settings["pooling"],
            normalize=settings["normalisation"] == "l2",
            prefix=settings["prefix"],
        )
    found = encoder.fingerprint()
    if found != manifest.fingerprint:
        raise ValueError(
            f"{folder}: expected the encoder of its vectors, {settings['name']} with fingerprint "
            f"{manifest.fingerprint:.12}, found {encoder.name} with {found:.12}. It has changed "
            "since: build the index again."
        )
    return encoder


def compaction_advice(manifest: Manifest) -> str:
    """Why an index should be compacted, a sentence; empty where it need not be."""
    n = manifest.n_passages
    share = manifest.tombstones / (n + manifest.tombstones)
    if share > MOST_TOMBSTONES:
        return (
            f"{share:.0%} of the vectors in its FAISS file are of passages that are gone, which "
            "makes searches slower: compact it (rag-finetune compact)."
        )
    if "IVF" in manifest.faiss_factory and manifest.additions > MOST_ADDITIONS * n:
        return (
            f"{manifest.additions:,} vectors were added to lists that were made without them, for "
            f"{n:,} passages: compact it (rag-finetune compact) to make the lists anew."
        )
    return ""


def _opened(folder: Path) -> PassageIndex:
    """The index as it is now, with a warning where it should be compacted."""
    index = open_index(folder)
    advice = compaction_advice(index.manifest)
    if advice:
        warnings.warn(f"{folder}: {advice}", stacklevel=3)
    return index


def _counted(passages: Passages, name: str, counts: dict[str, int]) -> Iterator[Mapping[str, Any]]:
    """Passages as they come, counted."""
    for passage in passages:
        counts[name] += 1
        yield passage


@dataclass
class _Taken:
    """Passages that come, written down.

    Attributes:
        digest: sha256 over them; empty where there are none.
        texts: the passages, columns id, document_id, title and text.
        job: encodes them; None where nothing is to be encoded.
    """

    digest: str = ""
    texts: Dataset = field(
        default_factory=lambda: Dataset.from_dict({n: [] for n in FEATURES}, features=FEATURES)
    )
    job: IndexJob | None = None


def _take(
    work: Path, index: PassageIndex, passages: Passages, encoder: TextEncoder | None
) -> _Taken:
    """Write the passages that come into the work folder, and plan their encoding.

    Raises:
        ValueError: a passage is malformed, or the encoder is not that of the index.
    """
    manifest = index.manifest
    if not manifest.has_vectors:
        corpus = write_passages(passages, work / TEXTS)
        return _Taken(corpus.digest, open_passages(work / TEXTS))
    encoder = encoder or load_own_encoder(index.folder)
    job = IndexJob(work, encoder, "flat", manifest.dtype, World(), progress=False)
    if job.fingerprint != manifest.fingerprint:
        raise ValueError(
            f"expected the encoder with fingerprint {manifest.fingerprint:.12}, found "
            f"{encoder.name} with {job.fingerprint:.12}. Load it with load_own_encoder."
        )
    job.prepare(passages)
    return _Taken(job.plan().passages, open_passages(work / TEXTS), job)


def _encode(
    taken: _Taken, locate: Callable[[list[str]], Mapping[str, str]] | None, progress: bool
) -> np.ndarray | None:
    """The vectors of the passages that come; None for an index without."""
    if taken.job is None:
        return None
    job, plan = taken.job, taken.job.plan()
    job.shown = progress
    todo = sum(rows.stop - rows.start for rows in map(job.vectors(plan).rows_of, plan.todo))
    if todo < plan.n_passages:
        done = plan.n_passages - todo
        _say(f"resuming: {done:,} of {plan.n_passages:,} passages encoded already.", progress)
    job.encode(plan)
    job.check(plan, locate)
    return job.vectors(plan).read()


def _digest(passages: str, n_replacing: int, remove: Collection[str]) -> str:
    """sha256, in hex, over what an update is asked for."""
    parts = [passages, n_replacing, sorted(set(remove))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _summary(changes: Changes, counts: Mapping[str, int]) -> str:
    """One line about what will be done."""
    done = [
        f"{counts['add']:,} added" if counts["add"] else "",
        f"{counts['replace']:,} in place of {changes.replaced:,}" if changes.replaced else "",
        f"{changes.removed:,} removed" if changes.removed else "",
    ]
    return (
        f"Passages: {', '.join(filter(None, done))}; {len(changes.order):,} instead of "
        f"{changes.n_old:,}."
    )


def _say(line: str, progress: bool) -> None:
    if progress:
        print(line, flush=True)
