"""Tiny indexes and models that are searched by words."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import tiny_rag

from rag_finetune.index.lexical_parts import add_lexical, build_word_index
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.rag.assemble import assemble_rag

KINDS = {"bm25": {}, "tfidf": {}}


def full_index(folder: Path) -> PassageIndex:
    """Vectors, BM25 and TF-IDF of the twenty passages."""
    add_lexical(tiny_rag.tiny_index(folder), KINDS)
    return open_index(folder)


def word_index(folder: Path) -> PassageIndex:
    """BM25 and TF-IDF of the twenty passages, without vectors."""
    return build_word_index(tiny_rag.passages(), folder, KINDS)


def assembled(folder: Path, index: PassageIndex, **options) -> Path:
    """A checkpoint over an index."""
    parts = tiny_rag.save_parts(folder / "parts", dropout=0.0)
    return assemble_rag(
        parts["question_encoder"],
        parts["generator"],
        folder / "assembled",
        index=index,
        max_combined_length=40,
        **options,
    )


def copy_of(index: PassageIndex, folder: Path) -> PassageIndex:
    """An index that a test may change."""
    return open_index(shutil.copytree(index.folder, folder))


@functools.cache
def words_job() -> Path:
    """A folder with full/ and bare/ (indexes with vectors and without) and a model for each.

    Leave it as it is.
    """
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    assembled(folder / "full_model", full_index(folder / "full"))
    assembled(folder / "bare_model", word_index(folder / "bare"))
    return folder
