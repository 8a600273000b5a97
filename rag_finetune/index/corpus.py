"""Passages as Arrow files: written as they come, and once more with their vectors."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, DatasetInfo, Features, List, Value
from datasets.arrow_writer import ArrowWriter

from rag_finetune.data.repeats import KeyLog
from rag_finetune.files import describe, write_json

COLUMNS = ("id", "document_id", "title", "text")
FEATURES = Features({name: Value("string") for name in COLUMNS})
ROWS_PER_BATCH = 1_000


class Corpus(NamedTuple):
    """What a stream of passages came to: its sha256, and how much it held."""

    digest: str
    n_passages: int
    n_documents: int


def write_passages(passages: Iterable[Mapping[str, Any]], path: Path) -> Corpus:
    """Write passages to an Arrow file as they come; what is held is eight bytes a document.

    Args:
        passages: mappings with the string keys id, document_id, title and text.
        path: the file to make or to replace.

    Returns:
        Digest and counts.

    Raises:
        ValueError: a passage lacks a key, a value is not a string, or a text is empty.
        OSError: the file cannot be written.
    """
    digest, documents, last = hashlib.sha256(), KeyLog(), None
    checked = _checked(passages)
    with open(path, "wb") as file:
        writer = ArrowWriter(features=FEATURES, stream=file)
        while rows := list(islice(checked, ROWS_PER_BATCH)):
            writer.write_batch({name: [row[name] for row in rows] for name in COLUMNS})
            for row in rows:
                digest.update(json.dumps([row[name] for name in COLUMNS]).encode())
                if row["document_id"] != last:  # the pieces of a document follow each other
                    documents.add(row["document_id"])
                    last = row["document_id"]
        n_passages, _ = writer.finalize(close_stream=False)
    repeated = len(documents.suspects())
    return Corpus(digest.hexdigest(), n_passages, len(documents) - repeated)


def open_passages(path: Path) -> Dataset:
    """The passages of an Arrow file, mapped."""
    return Dataset.from_file(str(path))


def write_with_vectors(passages: Dataset, vectors: np.ndarray | None, folder: Path) -> None:
    """Write the dataset of an index folder, in constant memory.

    `datasets.load_from_disk` reads it, and with it plain RagRetriever. It is written here because
    `save_to_disk` wants the dataset whole, in memory or in a file of the same size.

    Args:
        passages: columns id, document_id, title, text.
        vectors: one a passage, shape (n, dim) float32; None for passages without.
        folder: the folder to make.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir()
    name = "data-00000-of-00001.arrow"
    features = Features(FEATURES)
    if vectors is not None:
        features["embeddings"] = List(Value("float32"), length=vectors.shape[1])
    texts = passages.with_format("arrow")
    with open(folder / name, "wb") as file:
        writer = ArrowWriter(features=features, stream=file)
        for start in range(0, len(passages), ROWS_PER_BATCH):
            rows = slice(start, start + ROWS_PER_BATCH)
            table = texts[rows]
            columns = {column: table[column] for column in COLUMNS}
            if vectors is not None:
                columns["embeddings"] = np.array(vectors[rows])
            writer.write_batch(columns)
        writer.finalize(close_stream=False)
    DatasetInfo(features=features).write_to_directory(str(folder))
    write_json(folder / "state.json", _state(name, passages._fingerprint))


def passage_texts(passages: Dataset) -> Iterator[str]:
    """What is searched by words of each passage: its title and its text, read in blocks."""
    for block in passages.select_columns(["title", "text"]).with_format(None).iter(ROWS_PER_BATCH):
        for title, text in zip(block["title"], block["text"], strict=True):
            yield f"{title} {text}"


def _state(data_file: str, fingerprint: str) -> dict[str, Any]:
    """What `datasets.load_from_disk` reads besides the data."""
    return {
        "_data_files": [{"filename": data_file}],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }


def _checked(passages: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The passages, each held to what retrieval needs of it."""
    for number, row in enumerate(passages):
        for name in COLUMNS:
            if not isinstance(row.get(name), str):
                raise ValueError(
                    f'passage {number} (id {row.get("id")}): "{name}" must be a string, found '
                    f"{describe(row[name]) if name in row else 'no such key'}."
                )
        if not row["text"].strip():
            raise ValueError(f'passage {number} (id {row["id"]}): "text" is empty. Leave it out.')
        yield row
