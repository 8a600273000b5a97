"""The formats that passages are read from: told apart by content, or named."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rag_finetune.files import check_file, nearest

FORMATS = ("tsv", "csv", "json", "jsonl", "parquet", "datasets", "beir", "flashrag", "files")
FILE_SUFFIXES = (".txt", ".md", ".html", ".htm", ".pdf")
READERS = {
    **{".tsv": "tsv", ".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"},
    **dict.fromkeys(FILE_SUFFIXES, "files"),
}
SYNONYMS = ("content", "passage", "body", "document", "paragraph", "context", "abstract")


class Source(NamedTuple):
    """One file or folder of documents, and how it is read.

    Attributes:
        path: the file, or the folder.
        reader: `tsv`, `csv`, `json` (a list or one object a line), `parquet`, `datasets`, `files`.
        layout: `beir` (`_id, title, text`), `flashrag` (`id, contents`), or "" where each row
            tells by its keys.
    """

    path: Path
    reader: str
    layout: str


def check_format(passages_format: str | None) -> None:
    """Check the name of a format.

    Raises:
        ValueError: it is none of `FORMATS`, and not None.
    """
    if passages_format is None or passages_format in FORMATS:
        return
    guess = nearest(passages_format, FORMATS)
    raise ValueError(
        f'passages_format must be one of {", ".join(FORMATS)}, found "{passages_format}".'
        + (f' Did you mean "{guess}"?' if guess else "")
    )


def find_source(path: str | Path, passages_format: str | None = None) -> Source:
    """Tell how a file or a folder of documents is read.

    A folder is a `datasets` folder by its `state.json`, BEIR's by its `corpus.jsonl`, else one of
    text files; a file is told by its extension.

    Args:
        path: the file or folder.
        passages_format: one of `FORMATS`, or None to find it.

    Returns:
        The path (for a BEIR folder that of its `corpus.jsonl`) and how it is read.

    Raises:
        ValueError: the format cannot be told, does not fit the path, or a `DatasetDict` was named
            where one of its splits was meant.
        OSError: there is nothing at the path, or a folder where the format needs a file.
    """
    path = Path(path)
    reader, layout = _find_reader(path, passages_format)
    if layout == "beir" and path.is_dir():
        path = path / "corpus.jsonl"
    if reader == "datasets":
        _check_dataset(path)
    elif reader != "files" or not path.is_dir():
        check_file(path)
        if not path.is_file():
            raise ValueError(
                f"{path}: expected a file that can be read twice, found a pipe or a device. "
                f"Write its content to a file first."
            )
    return Source(path, reader, layout)


def _find_reader(path: Path, named: str | None) -> tuple[str, str]:
    """The reader and the layout of a path."""
    layout = named if named in ("beir", "flashrag") else ""
    if named and not layout:
        if named == "files" and path.is_file():
            _check_suffix(path, FILE_SUFFIXES)
        return ("json" if named == "jsonl" else named), ""
    if path.is_dir():
        if _is_dataset(path):
            return "datasets", layout
        if layout == "beir" or (not layout and (path / "corpus.jsonl").is_file()):
            return "json", "beir"
        return ("json" if layout else "files"), layout
    reader = READERS.get(path.suffix.lower(), "")
    if layout:
        return ("json" if reader in ("", "files") else reader), layout
    _check_suffix(path, READERS)
    return reader, ""


def _check_suffix(path: Path, suffixes: Iterable[str]) -> None:
    suffix = path.suffix.lower()
    if suffix in suffixes or not path.exists():
        return  # a path that leads nowhere is told so instead
    *names, last = suffixes
    raise ValueError(
        f"{path}: expected passages in a {', '.join(names)} or {last} file, found "
        f'"{suffix or "no extension"}". Convert the file, or name its format with '
        "--passages_format."
    )


def _is_dataset(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _check_dataset(path: Path) -> None:
    if (path / "state.json").is_file():
        return
    if not path.exists():
        check_file(path)
    splits = path / "dataset_dict.json"
    if not splits.is_file():
        raise ValueError(
            f"{path}: expected a folder that Dataset.save_to_disk wrote, found no state.json in it."
        )
    try:
        names = [str(name) for name in json.loads(splits.read_text(encoding="utf-8"))["splits"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{splits}: expected an object with "splits", found {error!r}.') from error
    first = f" Name {path / names[0]}, for example." if names else ""
    raise ValueError(
        f"{path}: expected one dataset, found a DatasetDict with the splits "
        f"{list_names(names) or '(none)'}. Name the folder of one split.{first}"
    )


def text_key(names: Iterable[str], layout: str) -> str:
    """Find the key that holds the text.

    Args:
        names: the keys of a row, or the columns of a table.
        layout: see `Source`.

    Returns:
        "text", "contents" (FlashRAG's), or "" where there is neither.
    """
    if layout != "flashrag" and "text" in names:
        return "text"
    return "contents" if layout != "beir" and "contents" in names else ""


def hint_text(names: Iterable[str], wanted: str = "text") -> str:
    """Guess which key was meant as the text, as a sentence with a space before it, or ""."""
    names = list(names)
    others = [name for name in (*SYNONYMS, "text") if name in names]
    guess = nearest(wanted, names) or next(iter(others), "")
    return f' Rename "{guess}" to "{wanted}" if that is meant.' if guess and guess != wanted else ""


def list_names(names: Iterable[str]) -> str:
    """Name keys or columns in a message: quoted, each cut at forty characters."""
    return ", ".join(f'"{name[:40]}"' for name in names)
