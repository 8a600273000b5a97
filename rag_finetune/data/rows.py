"""Rows of tables and of JSON, each with the place where it stands."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import IterableDataset, load_from_disk

from rag_finetune.data.formats import Source, hint_text, list_names, text_key
from rag_finetune.data.json_rows import read_placed_objects
from rag_finetune.data.reports import quiet_log
from rag_finetune.files import describe, read_lines

DELIMITERS = {"tsv": "\t", "csv": ","}
TSV_HEADERS = (["id", "text", "title"], ["text", "title"], ["contents", "id"])
COLUMNS = ("id", "_id", "title", "text", "contents")
ROWS_PER_BATCH = 256
EXAMPLE = '{"id": "…", "title": "…", "text": "…"}'

Row = tuple[str, dict[str, Any]]
Batch = dict[str, list[Any]]


def read_rows(source: Source) -> Iterator[Row]:
    """Read the rows of a table or of JSON.

    One row or one batch is held at a time; of a Parquet file one row group, of a JSON list at least
    a line.

    Args:
        source: any whose reader is not `files`.

    Returns:
        Pairs of a place (`file:line`, or `file, row 3 (from 0)` in Parquet files and `datasets`
        folders) and the row by its keys.

    Raises:
        ValueError: the file is not of this format, or has no column of texts.
        OSError: it cannot be read.
    """
    if source.reader in DELIMITERS:
        return _read_table(source)
    if source.reader == "json":
        return _read_json(source.path)
    return _read_columns(source)


def _read_json(path: Path) -> Iterator[Row]:
    for place, row in read_placed_objects(path):
        if not isinstance(row, dict):
            raise ValueError(
                f'{place}: expected an object with "text", found {describe(row)}. Write {EXAMPLE}.'
            )
        yield place, row


def _read_table(source: Source) -> Iterator[Row]:
    rows = _read_cells(source)
    place, columns = next(rows, (f"{source.path}:1", []))
    _check_header(source, place, columns)
    for place, cells in rows:
        if len(cells) != len(columns):
            raise ValueError(
                f"{place}: expected {len(columns)} fields ({list_names(columns)}), found "
                f"{len(cells)}. Quote a field that holds the delimiter or a newline."
            )
        yield place, dict(zip(columns, cells, strict=True))


def _read_cells(source: Source) -> Iterator[tuple[str, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # the default, 131,072 characters, refuses a long document
    lines = read_lines(source.path)
    reader = csv.reader(lines, delimiter=DELIMITERS[source.reader], strict=True)
    while True:
        place = f"{source.path}:{reader.line_num + 1}"
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


def _check_header(source: Source, place: str, columns: list[str]) -> None:
    if any("\0" in name for name in columns):
        raise ValueError(
            f"{place}: expected UTF-8 text, found NUL characters, as in UTF-16 without a byte "
            f"order mark. Save the file as UTF-8."
        )
    key = text_key(columns, source.layout)
    known = source.reader != "tsv" or sorted(columns) in TSV_HEADERS
    if key and known and len(set(columns)) == len(columns):
        return
    wanted = {"tsv": "id, text, title or title, text"}.get(
        source.reader, "text and, where given, id, title"
    )
    if source.layout == "flashrag":
        wanted = "id, contents"
    key = "contents" if source.layout == "flashrag" else "text"
    raise ValueError(
        f"{place}: expected a header with the columns {wanted}, found "
        f"{list_names(columns) or 'nothing'}.{hint_text(columns, key)} "
        f"{_header_remedy(source, columns)}"
    )


def _header_remedy(source: Source, columns: list[str]) -> str:
    """What to do about a header that is none: it may be cut by what separates other tables."""
    for name, mark in {"commas": ",", "semicolons": ";", "tabs": "\t"}.items():
        cut = [cell.strip().strip('"').lower() for column in columns for cell in column.split(mark)]
        if len(cut) > len(columns) and text_key(cut, source.layout):
            format_ = {",": "csv", "\t": "tsv"}.get(mark)
            if format_:
                return f"Its fields are separated by {name}: name it .{format_}."
            return f"Its fields are separated by {name}: save it with commas, as .csv."
    return "Put the header on the first line."


def _read_columns(source: Source) -> Iterator[Row]:
    """Rows of a Parquet file or of a `datasets` folder, of which only our columns are read."""
    batches = _read_parquet(source) if source.reader == "parquet" else _read_dataset(source)
    number = 0
    for batch in batches:
        for values in zip(*batch.values(), strict=True):
            yield f"{source.path}, row {number} (from 0)", dict(zip(batch, values, strict=True))
            number += 1


def _read_dataset(source: Source) -> Iterator[Batch]:
    with _naming(source.path, "a folder that Dataset.save_to_disk wrote"):
        dataset = load_from_disk(str(source.path), keep_in_memory=False).with_format(None)
    columns = _find_columns(source, dataset.column_names)
    yield from dataset.select_columns(columns).iter(batch_size=ROWS_PER_BATCH)


def _read_parquet(source: Source) -> Iterator[Batch]:
    _check_parquet(source.path)
    with TemporaryDirectory(prefix="rag-finetune-") as folder:
        # datasets takes a path for a pattern, and leaves lock files in ~/.cache: a link whose name
        # is plain, and a cache that goes away.
        link = Path(folder) / "passages.parquet"
        link.symlink_to(source.path.resolve())
        with _naming(source.path, "a Parquet file"):
            names = list(IterableDataset.from_parquet(str(link), cache_dir=folder).features)
        columns = _find_columns(source, names)
        with _naming(source.path, "a Parquet file"):
            yield from IterableDataset.from_parquet(
                str(link), cache_dir=folder, columns=columns, batch_size=ROWS_PER_BATCH
            ).iter(batch_size=ROWS_PER_BATCH)


@contextmanager
def _naming(path: Path, expected: str) -> Iterator[None]:
    """Name the file in an error of the library, which does not."""
    try:
        with quiet_log("datasets.packaged_modules.parquet.parquet"):
            yield
    except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, IndexError):  # load_from_disk of a folder without rows (datasets 5.2)
            reason = "it has no rows"
        raise ValueError(
            f"{path}: expected {expected}, found one that cannot be read ({reason}). Write it anew."
        ) from error


def _check_parquet(path: Path) -> None:
    with open(path, "rb") as file:
        first = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        last = file.read(4)
    if (first, last) != (b"PAR1", b"PAR1"):
        raise ValueError(
            f'{path}: expected a Parquet file, which begins and ends with "PAR1", found {first!r} '
            f"and {last!r}. Is it another format, or cut off?"
        )


def _find_columns(source: Source, names: list[str]) -> list[str]:
    if text_key(names, source.layout):
        return [name for name in COLUMNS if name in names]
    key = "contents" if source.layout == "flashrag" else "text"
    raise ValueError(
        f'{source.path}: expected the column "{key}", found {list_names(names) or "none"}.'
        f"{hint_text(names, key) or ' Rename the column.'}"
    )
