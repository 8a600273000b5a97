"""What an index folder says about itself, and the checks that hold it to that."""

import json
import os
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from rag_finetune.files import describe, read_text, write_json

Read = TypeVar("Read")

FILE_NAME = "manifest.json"
FORMAT_VERSION = 1
NEXT = ".next"  # where a new version is written; see index/versions.py
UNCHECKED = ("context_encoder/", FILE_NAME)
OBJECTS = (
    "encoder",
    "search_parameters",
    "lexical",
    "retrieval",
    "library_versions",
    "file_sizes",
)
LIBRARIES = ("transformers", "datasets", "faiss-cpu", "torch", "rag-finetune")


@dataclass(frozen=True)
class Manifest:
    """The description of an index folder, written last, so that a folder with one is whole.

    Attributes:
        encoder: name and revision of the context encoder, and the settings that fix its vectors;
            empty where there are no vectors.
        fingerprint: sha256 of the context encoder; the only one whose vectors these are.
        dimension: length of a vector; 0 where there are none.
        n_passages: number of passages.
        n_documents: number of documents that they were cut from.
        passage_words: words a passage at most; 0 when documents are whole.
        overlap: words that neighbouring passages of a document share.
        dtype: what the encoder computed in; the vectors are float32 always.
        index_type: the type that was asked for.
        faiss_factory: what FAISS calls this type of index.
        search_parameters: how it is searched; empty for an exact index.
        measured_recall: share of the exact nearest neighbours that a search finds.
        metric: always the inner product.
        lexical: settings of each index by words, by its kind, which is the name of its folder.
        retrieval: the way it is searched where nobody says another; empty where none was chosen.
        format_version: of this folder's layout.
        library_versions: what built it.
        file_sizes: bytes of each file that an index is opened from; empty where they were not
            written down.
        tombstones: vectors in the FAISS file whose passages are gone.
        additions: vectors that were added to the FAISS file since it was built.
        last_update: sha256 of what the last update was asked for; empty where there was none.
        place: the folder within the index folder that its files are in, while an update has not
            moved them to where they belong; empty for the folder itself.
    """

    encoder: dict[str, Any]
    fingerprint: str
    dimension: int
    n_passages: int
    n_documents: int
    passage_words: int
    overlap: int = 0
    dtype: str = "float32"
    index_type: str = "flat"
    faiss_factory: str = "Flat"
    search_parameters: dict[str, Any] = field(default_factory=dict)
    measured_recall: float = 1.0
    metric: str = "inner_product"
    lexical: dict[str, dict[str, Any]] = field(default_factory=dict)
    retrieval: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    library_versions: dict[str, str] = field(default_factory=dict)
    file_sizes: dict[str, int] = field(default_factory=dict)
    tombstones: int = 0
    additions: int = 0
    last_update: str = ""
    place: str = ""

    @property
    def has_vectors(self) -> bool:
        """Whether the index holds vectors, and not words only."""
        return self.dimension > 0

    def save(self, folder: Path) -> None:
        """Write the manifest into an index folder."""
        write_json(folder / FILE_NAME, asdict(self))


def load_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of an index folder.

    Raises:
        FileNotFoundError: the folder or its manifest is missing.
        NotADirectoryError: it is a file.
        ValueError: it is of a later format, a key is missing or unknown, or no object where one
            is meant.
    """
    path = folder / FILE_NAME
    if folder.is_file():
        raise NotADirectoryError(
            f"{folder}: expected an index folder, found a file. Build one of it with "
            "`rag-finetune index --passages`."
        )
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
    found = data.get("format_version")
    if found != FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected format_version {FORMAT_VERSION}, found {found}. "
            "Build the index again with this version of rag-finetune."
        )
    optional = {
        f.name for f in fields(Manifest) if (f.default, f.default_factory) != 2 * (MISSING,)
    }
    wrong = ({f.name for f in fields(Manifest)} ^ set(data)) - (optional - set(data))
    if wrong:
        raise ValueError(f"{path}: missing or unknown keys: {', '.join(sorted(wrong))}.")
    for name in OBJECTS:
        if not isinstance(data.get(name, {}), dict):
            raise ValueError(f'{path}: "{name}" must be an object, found {describe(data[name])}.')
    if data.get("place", "") not in ("", NEXT):
        raise ValueError(f'{path}: "place" must be empty or "{NEXT}", found "{data["place"]}".')
    return Manifest(**data)


def of_one_version(folder: Path, read: Callable[[], Read]) -> Read:
    """What a reading of an index folder gives while no update puts another version in its place.

    Args:
        folder: the index folder.
        read: reads it; called again where what it read, or failed at, may be of two versions.
    """

    def seen() -> tuple[object, ...] | None:
        """The manifest, and which file it is: two versions may say the same of themselves."""
        try:
            with open(folder / FILE_NAME, "rb") as file:
                status = os.fstat(file.fileno())
                return file.read(), status.st_ino, status.st_mtime_ns
        except OSError:
            return None

    while True:
        before = seen()
        try:
            found = read()
        except (OSError, ValueError):
            if before == seen():
                raise
        else:
            if before == seen():
                return found


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file that an index is opened from, by its path in the folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    return {name: sizes[name] for name in sorted(sizes) if not name.startswith(UNCHECKED)}


def library_versions() -> dict[str, str]:
    """The versions of what builds an index; "unknown" for a package of another name."""

    def of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "unknown"

    return {name: of(name) for name in LIBRARIES}


def require_sizes(folder: Path, sizes: dict[str, int]) -> None:
    """Raise where a file of an index folder is missing, or is not as long as it was.

    FAISS ends the process on some files that were cut, so this is found out before it reads one.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one has another size.
    """
    for name, expected in sizes.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file. Build the index again.")
        found = path.stat().st_size
        if found != expected:
            raise ValueError(
                f"{path}: expected {expected:,} bytes, found {found:,}. The file was cut off or "
                "replaced. Build the index again, or copy it again from where it is whole."
            )


def require_equal(folder: Path, what: str, expected: object, found: object, remedy: str) -> None:
    """Raise where something that goes with an index does not fit its manifest.

    Raises:
        ValueError: the two differ; the message names the folder, both values and the remedy.
    """
    if expected != found:
        raise ValueError(f"{folder}: {what}: expected {expected}, found {found}. {remedy}")
