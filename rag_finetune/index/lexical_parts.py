"""The parts of an index folder that are searched by words: alone, or beside vectors."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers.utils.logging import tqdm

from rag_finetune.index.corpus import (
    COLUMNS,
    ROWS_PER_BATCH,
    open_passages,
    passage_texts,
    write_passages,
    write_with_vectors,
)
from rag_finetune.index.lexical import build_lexical, require_lexical
from rag_finetune.index.manifest import Manifest, file_sizes, library_versions
from rag_finetune.index.store import PASSAGES, PassageIndex, open_index
from rag_finetune.index.work import claimed_work, publish, require_target, require_vacant, sync_tree

TEXTS = "passages.arrow"
FOLDER = "index"  # what will be published

# The settings of each kind of index by words, as `build_lexical` takes them.
Kinds = Mapping[str, Mapping[str, Any]]


def build_word_index(
    passages: Dataset | Iterable[Mapping[str, Any]],
    output_dir: str | Path,
    kinds: Kinds,
    *,
    passage_words: int = 0,
    overlap: int = 0,
    progress: bool = False,
) -> PassageIndex:
    """Write an index folder without vectors, which needs no encoder.

    Args:
        passages: as for `build_index`, as are output_dir, passage_words and overlap.
        output_dir: the folder to make; it appears, complete, in one step.
        kinds: what to build, at least one.
        passage_words: how the passages were cut, for the manifest.
        overlap: words that neighbouring passages share, for the manifest.
        progress: show a bar.

    Returns:
        The opened index.

    Raises:
        FileExistsError: the folder exists and holds something.
        BlockingIOError: another process is building it.
        ValueError: a kind or a setting is unknown, there are no passages, or one is malformed.
        OSError: the disk cannot be written.
    """
    target = Path(output_dir)
    _require(kinds)
    require_target(target)
    if isinstance(passages, Dataset):
        passages = passages.select_columns(list(COLUMNS)).with_format(None)
    with claimed_work(target) as work:
        require_vacant(target)  # another builder may have ended while this one began
        bar = tqdm(passages, desc="Reading passages", unit=" passages", disable=not progress)
        with bar:
            corpus = write_passages(bar, work / TEXTS)
        if not corpus.n_passages:
            raise ValueError("An index needs at least one passage, found none.")
        folder = work / FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        texts = open_passages(work / TEXTS)
        write_with_vectors(texts, None, folder / PASSAGES)
        for kind, settings in kinds.items():
            build_lexical(passage_texts(texts), folder / kind, kind, **settings)
        Manifest(
            encoder={},
            fingerprint="",
            dimension=0,
            n_passages=corpus.n_passages,
            n_documents=corpus.n_documents,
            passage_words=passage_words,
            overlap=overlap,
            index_type="none",
            faiss_factory="",
            lexical=_plain(kinds),
            library_versions=library_versions(),
            file_sizes=file_sizes(folder),
        ).save(folder)
        sync_tree(folder)
        publish(folder, target)
    return open_index(target)


def add_lexical(index: PassageIndex, kinds: Kinds) -> list[str]:
    """Build what an index folder has not yet of indexes by words, or has with other settings.

    At any moment the folder is a whole index; one that others have open stays as it was for them.

    Args:
        index: the opened index.
        kinds: what it shall have.

    Returns:
        The kinds that were built; the others were there.

    Raises:
        ValueError: a kind or a setting is unknown.
        OSError: the folder cannot be written.
    """
    _require(kinds)
    folder, manifest, built = index.folder, index.manifest, []
    for kind, settings in _plain(kinds).items():
        if manifest.lexical.get(kind) == settings:
            continue
        others = {name: found for name, found in manifest.lexical.items() if name != kind}
        sizes = {
            name: size
            for name, size in manifest.file_sizes.items()
            if not name.startswith(f"{kind}/")
        }
        if kind in manifest.lexical:  # a kill between here and the end leaves it out
            replace(manifest, lexical=others, file_sizes=sizes).save(folder)
        build_lexical(passage_texts(index.passages), folder / kind, kind, **settings)
        sync_tree(folder / kind)
        if manifest.file_sizes:
            sizes |= {f"{kind}/{n}": size for n, size in file_sizes(folder / kind).items()}
        manifest = replace(manifest, lexical={**others, kind: settings}, file_sizes=sizes)
        manifest.save(folder)
        built.append(kind)
    return built


def require_same_passages(index: PassageIndex, passages: Iterable[Mapping[str, Any]]) -> None:
    """Raise where an index holds other passages than were given, or in another order.

    Args:
        index: the opened index.
        passages: read once, and no further than the first difference.

    Raises:
        ValueError: it does; the message names the first passage that differs.
    """
    blocks = index.passages.select_columns(list(COLUMNS)).with_format(None).iter(ROWS_PER_BATCH)
    held = (row for block in blocks for row in zip(*(block[name] for name in COLUMNS), strict=True))
    given = (tuple(row[name] for name in COLUMNS) for row in passages)
    for number, (ours, theirs) in enumerate(zip_longest(held, given)):
        if ours != theirs:
            expected, found = (f'"{row[0]}"' if row else "none" for row in (ours, theirs))
            raise ValueError(
                f"{index.folder}: holds other passages than were given: expected passage {number} "
                f"with the id {expected} and its text, found the id {found}. Choose another "
                "folder, or give the same files, cut as they were: --passage_words "
                f"{index.manifest.passage_words} --overlap {index.manifest.overlap}."
            )


def _require(kinds: Kinds) -> None:
    """Raise for what cannot be built, before anything is read."""
    if not kinds:
        raise ValueError("An index without vectors needs words: name bm25, tfidf, or both.")
    for kind, settings in kinds.items():
        require_lexical(kind, settings.get("language"))


def _plain(kinds: Kinds) -> dict[str, dict[str, Any]]:
    """Settings as a manifest has them."""
    return {kind: {"language": None, **settings} for kind, settings in kinds.items()}
