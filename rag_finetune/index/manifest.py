"""What an index folder says about itself, and the checks that hold it to that."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rag_finetune.files import describe, read_text, write_json

FILE_NAME = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """The description of an index folder, written last, so that a folder with one is whole.

    Attributes:
        encoder: name and revision of the context encoder, and the settings that fix its vectors.
        fingerprint: sha256 of the context encoder; the only one whose vectors these are.
        dimension: length of a vector.
        n_passages: number of passages.
        n_documents: number of documents that they were cut from.
        passage_words: words a passage at most; 0 when documents are whole.
        faiss_factory: what FAISS calls this type of index.
        search_parameters: how it is searched; empty for an exact index.
        measured_recall: share of the exact nearest neighbours that a search finds.
        metric: always the inner product.
        format_version: of this folder's layout.
        library_versions: what built it.
    """

    encoder: dict[str, Any]
    fingerprint: str
    dimension: int
    n_passages: int
    n_documents: int
    passage_words: int
    faiss_factory: str = "Flat"
    search_parameters: dict[str, Any] = field(default_factory=dict)
    measured_recall: float = 1.0
    metric: str = "inner_product"
    format_version: int = FORMAT_VERSION
    library_versions: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the manifest into an index folder."""
        write_json(folder / FILE_NAME, asdict(self))


def load_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of an index folder.

    Raises:
        FileNotFoundError: the folder or its manifest is missing.
        ValueError: it is of a later format, or a key is missing or unknown.
    """
    path = folder / FILE_NAME
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder. Build it with `rag-finetune index`.")
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: not an index folder, {FILE_NAME} is missing. "
            "Build one with `rag-finetune index`."
        )
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}).") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected an object, found {describe(data)}.")
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected format_version {FORMAT_VERSION}, found {version}. "
            "Build the index again with this version of rag-finetune."
        )
    wrong = {f.name for f in fields(Manifest)} ^ set(data)
    if wrong:
        raise ValueError(f"{path}: missing or unknown keys: {', '.join(sorted(wrong))}.")
    return Manifest(**data)


def require_equal(folder: Path, what: str, expected: object, found: object, remedy: str) -> None:
    """Raise where something that goes with an index does not fit its manifest.

    Raises:
        ValueError: the two differ; the message names the folder, both values and the remedy.
    """
    if expected != found:
        raise ValueError(f"{folder}: {what}: expected {expected}, found {found}. {remedy}")
