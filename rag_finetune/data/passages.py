"""Documents read from TSV, CSV and JSONL files, and cut into the passages that are retrieved."""

import csv
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, Features, Value, concatenate_datasets

from rag_finetune.files import check_file, describe, nearest, read_json_lines, read_lines

FEATURES = Features({name: Value("string") for name in ("id", "document_id", "title", "text")})
DELIMITERS = {".tsv": "\t", ".csv": ","}
TSV_HEADERS = (("id", "text", "title"), ("title", "text"))
ROWS_PER_BATCH = 10_000


class _Place(NamedTuple):
    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


class _Document(NamedTuple):
    place: _Place
    id: str
    title: str
    text: str


def iter_passages(
    paths: str | Path | Sequence[str | Path], passage_words: int = 100
) -> Iterator[dict[str, str]]:
    """Read documents and cut them into passages, one after the other.

    A `.tsv` file has the header `id text title` (DPR's layout) or `title text`; a `.csv` file a
    header with `text` and, if it likes, `id` and `title`; a `.jsonl` file objects with these keys
    (`_id` is read as `id`). Fields with tabs, newlines or quotes are quoted, the
    quotes in them doubled.

    A document without an id gets its row number, from 0; with several files the file's stem comes
    before it (`laws-12`). A document of one piece keeps its id; the pieces of a longer one are
    `<document_id>#1`, `#2` and so on. Each piece but the last has `passage_words` words; white
    space inside a piece stays as it was, around it it goes.

    Args:
        paths: the file or files.
        passage_words: words a passage at most, split at white space; 0 keeps documents whole,
            their text unchanged.

    Returns:
        An iterator over passages with the keys `id`, `document_id`, `title` and `text`, all
        strings. Documents without text are left out; one warning at the end says which.

    Raises:
        ValueError: `passage_words` is below 0, a file is of another type, a row is malformed, an id
            is used twice, or there is no passage at all.
        OSError: a file cannot be read.
    """
    if passage_words < 0:
        raise ValueError(
            f"passage_words must be at least 0, found {passage_words}. "
            f"Write 0 to keep documents whole."
        )
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    if not files:
        raise ValueError("paths must name at least one file of passages, found an empty list.")
    for path in files:
        _check_type(path)
        check_file(path)
    return _cut_all(files, passage_words)


def load_passages(paths: str | Path | Sequence[str | Path], passage_words: int = 100) -> Dataset:
    """Read documents and cut them into a dataset of passages, held in memory.

    Args:
        paths: the file or files; see `iter_passages`.
        passage_words: words a passage at most; 0 keeps documents whole.

    Returns:
        A dataset with the string columns `id`, `document_id`, `title` and `text`.

    Raises:
        ValueError: as `iter_passages`.
        OSError: a file cannot be read.
    """
    # Dataset.from_generator would cache by the arguments and miss a file that has changed.
    passages = iter_passages(paths, passage_words)
    batches = []
    while rows := list(islice(passages, ROWS_PER_BATCH)):
        batches.append(Dataset.from_list(rows, features=FEATURES))
    return concatenate_datasets(batches)


def _cut_all(files: list[str | Path], passage_words: int) -> Iterator[dict[str, str]]:
    places: dict[str, _Place] = {}
    empty: list[_Place] = []
    for path in files:
        prefix = f"{Path(path).stem}-" if len(files) > 1 else ""
        for document in _read_documents(path, prefix):
            _claim(document.id, document.place, places)
            if not document.text.strip():
                empty.append(document.place)
            for passage in _cut(document, passage_words):
                if passage["id"] != document.id:
                    _claim(passage["id"], document.place, places)
                yield passage
    if len(empty) == len(places):
        names = ", ".join(str(path) for path in files)
        raise ValueError(f"{names}: expected passages, found no row with text. Check the file.")
    if empty:
        _warn_about(empty)


def _cut(document: _Document, passage_words: int) -> Iterator[dict[str, str]]:
    if not document.text.strip():
        return
    pieces = [document.text]
    if passage_words:
        words = len(document.text.split())
        # As few pieces as can be, of even size: no passage of two words at the end.
        size = math.ceil(words / math.ceil(words / passage_words))
        pieces = re.findall(rf"\S+(?:\s+\S+){{0,{size - 1}}}", document.text)
    for number, piece in enumerate(pieces, start=1):
        yield {
            "id": document.id if len(pieces) == 1 else f"{document.id}#{number}",
            "document_id": document.id,
            "title": document.title,
            "text": piece,
        }


def _claim(passage_id: str, place: _Place, places: dict[str, _Place]) -> None:
    first = places.setdefault(passage_id, place)
    if first is not place:
        raise ValueError(
            f'{place}: the id "{passage_id}" is already taken by {first}. '
            f"Give every document its own id (the pieces of a long one are called id#1, id#2, …)."
        )


def _warn_about(empty: list[_Place]) -> None:
    shown = ", ".join(str(place) for place in empty[:5]) + (", …" if len(empty) > 5 else "")
    warnings.warn(
        f"{len(empty)} rows have no text and were left out: {shown}. "
        f"Fill them in, or delete them to silence this.",
        stacklevel=3,
    )


def _read_documents(path: str | Path, prefix: str) -> Iterator[_Document]:
    rows = _read_json(path) if Path(path).suffix.lower() == ".jsonl" else _read_table(path)
    for number, (place, row) in enumerate(rows):
        key = "_id" if row.get("id") is None and "_id" in row else "id"
        document_id = f"{prefix}{number}" if row.get(key) is None else _as_id(row, key, place)
        yield _Document(
            place, document_id, _as_text(row, "title", place), _as_text(row, "text", place)
        )


def _as_text(row: dict[str, Any], key: str, place: _Place) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(
            f'{place}: "{key}" must be a string, found {describe(value)}. Write it in quotes.'
        )
    return value


def _as_id(row: dict[str, Any], key: str, place: _Place) -> str:
    value = row[key]
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and value.strip()):
        return str(value)
    raise ValueError(
        f'{place}: "{key}" must be a non-empty string or a whole number, found {describe(value)}. '
        f'Give every document an id, or leave "{key}" out of the whole file.'
    )


def _read_json(path: str | Path) -> Iterator[tuple[_Place, dict[str, Any]]]:
    for line, row in read_json_lines(path):
        place = _Place(str(path), line)
        if not isinstance(row, dict):
            raise ValueError(
                f'{place}: expected an object with "text", found {describe(row)}. '
                f'Write {{"id": "…", "title": "…", "text": "…"}}.'
            )
        if "text" not in row:
            found = _list(row) or "an empty object"
            raise ValueError(f'{place}: expected the key "text", found {found}.{_hint(row)}')
        yield place, row


def _read_table(path: str | Path) -> Iterator[tuple[_Place, dict[str, Any]]]:
    rows = _read_cells(path)
    place, columns = next(rows, (_Place(str(path), 1), []))
    _check_header(place, columns)
    for place, cells in rows:
        if len(cells) != len(columns):
            raise ValueError(
                f"{place}: expected {len(columns)} fields ({_list(columns)}), found {len(cells)}. "
                f"Quote a field that holds the delimiter or a newline."
            )
        yield place, dict(zip(columns, cells, strict=True))


def _read_cells(path: str | Path) -> Iterator[tuple[_Place, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # the default, 131,072 characters, refuses a long document
    delimiter = DELIMITERS[Path(path).suffix.lower()]
    reader = csv.reader(read_lines(path), delimiter=delimiter, strict=True)
    while True:
        place = _Place(str(path), reader.line_num + 1)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{place}: the row that begins here cannot be read ({error}). A field that begins "
                f"with a quote must end with one, and each quote inside it must be doubled."
            ) from error
        if cells:
            yield place, cells


def _check_header(place: _Place, columns: list[str]) -> None:
    is_tsv = Path(place.path).suffix.lower() == ".tsv"
    known = sorted(columns) in [sorted(header) for header in TSV_HEADERS]
    if len(set(columns)) == len(columns) and (known if is_tsv else "text" in columns):
        return
    wanted = "id, text, title or title, text" if is_tsv else "text and, where given, id, title"
    raise ValueError(
        f"{place}: expected a header with the columns {wanted}, "
        f"found {_list(columns) or 'nothing'}.{_hint(columns)} Put that header on the first line."
    )


def _check_type(path: str | Path) -> None:
    suffix = Path(path).suffix.lower()
    if suffix not in (".jsonl", *DELIMITERS):
        raise ValueError(
            f"{path}: expected passages in a .tsv, .csv or .jsonl file, found "
            f'"{suffix or "no extension"}". Convert the file, or rename it if it is one of these.'
        )


def _list(names: Iterable[str]) -> str:
    return ", ".join(f'"{name[:40]}"' for name in names)


def _hint(names: Iterable[str]) -> str:
    guess = nearest("text", names)
    return f' Did you mean "text" by "{guess}"?' if guess and guess != "text" else ""
