"""Documents out of rows and text files: an id, a title and a text each, checked."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rag_finetune.data.formats import (
    Source,
    check_format,
    find_source,
    hint_text,
    list_names,
    text_key,
)
from rag_finetune.data.pdf_text import require_pypdf
from rag_finetune.data.reports import EMPTY, EMPTY_FILE, SKIPPED, Report
from rag_finetune.data.rows import read_rows
from rag_finetune.data.text_files import TextFolder, check_folder, read_text_file
from rag_finetune.files import describe


class Document(NamedTuple):
    """One document.

    Attributes:
        place: where it stands: `file:line`, `file, row 3 (from 0)`, or the file it fills.
        id: its own, or made from its row number or its file's name.
        title: "" where it has none.
        text: not blank.
    """

    place: str
    id: str
    title: str
    text: str


def find_sources(
    paths: str | Path | Sequence[str | Path], passages_format: str | None = None
) -> list[Source]:
    """Check the files and folders of documents, before the first is read.

    Args:
        paths: one or several.
        passages_format: see `find_source`; it holds for all of them.

    Returns:
        One source a path.

    Raises:
        ValueError: there is no path, one is named twice, a format is unknown or does not fit, or a
            folder holds nothing to read.
        OSError: there is nothing at a path.
    """
    check_format(passages_format)
    named = [paths] if isinstance(paths, str | Path) else list(paths)
    if not named:
        raise ValueError("paths must name at least one file of passages, found an empty list.")
    if "" in named:
        raise ValueError('paths must name files or folders, found "". Write . for this folder.')
    sources = [find_source(path, passages_format) for path in named]
    seen: dict[Path, Path] = {}
    for source in sources:
        first = seen.setdefault(source.path.resolve(), source.path)
        if first is not source.path:
            raise ValueError(f"{source.path}: is named twice (as {first} before). Name it once.")
        if source.reader == "files" and source.path.is_dir():
            check_folder(source.path)
    return sources


def read_documents(sources: Sequence[Source], report: Report) -> Iterator[Document]:
    """Read the documents of all sources, one after the other.

    Args:
        sources: what `find_sources` gave.
        report: takes rows without text, files that were not read, and files that cannot be. The
            caller raises the latter (`Report.raise_errors`), all at once, at the end.

    Yields:
        Documents with a text.

    Raises:
        ValueError: a row is malformed, or pypdf is missing.
        OSError: a file cannot be read.
    """
    for source in sources:
        several = len(sources) > 1
        if source.reader != "files":
            yield from _read_rows(source, several, report)
        elif source.path.is_dir():
            yield from _read_folder(source.path, several, report)
        else:
            title, text = read_text_file(source.path)
            document = Document(str(source.path), source.path.name, title, text)
            yield from _unless_empty(document, report, EMPTY_FILE)


def _unless_empty(document: Document, report: Report, kind: Any) -> Iterator[Document]:
    if document.text.strip():
        yield document
    else:
        report.add(kind, document.place)


def _read_folder(folder: Path, several: bool, report: Report) -> Iterator[Document]:
    files = TextFolder(folder)
    prefix = f"{folder.resolve().name}/" if several else ""
    for path, name in files.walk():
        if path.suffix.lower() == ".pdf":
            require_pypdf(path)  # once, and not as if each file were at fault
        try:
            (prefix + name).encode()
            title, text = read_text_file(path)
        except UnicodeEncodeError:
            report.add_error(f"{str(path)!r}: the name is not UTF-8. Rename the file.")
        except OSError as error:
            report.add_error(f"{path}: {error.strerror or error}. Make it readable.")
        except ValueError as error:
            report.add_error(str(error))
        else:
            document = Document(str(path), prefix + name, title, text)
            yield from _unless_empty(document, report, EMPTY_FILE)
    for message in files.unread:
        report.add_error(message)
    for suffix, (count, first) in files.skipped.items():
        report.add(SKIPPED, f"{count} {suffix} (such as {first})", count)


def _read_rows(source: Source, several: bool, report: Report) -> Iterator[Document]:
    name = source.path.name if source.path.is_dir() else source.path.stem
    prefix = f"{name}-" if several else ""
    for number, (place, row) in enumerate(read_rows(source)):
        title, text = _read_texts(row, place, source.layout)
        document_id = _read_id(row, place, source.layout) or f"{prefix}{number}"
        document = Document(place, document_id, title, text)
        yield from _unless_empty(document, report, EMPTY)


def _read_texts(row: dict[str, Any], place: str, layout: str) -> tuple[str, str]:
    """Title and text of a row."""
    key = text_key(row, layout)
    if not key:
        raise ValueError(_missing_text(row, place, layout))
    text = _as_text(row, key, place)
    if key == "text":
        return _as_text(row, "title", place), text
    first, newline, rest = text.partition("\n")
    if not newline:
        return "", text
    title = first.strip()
    quoted = len(title) > 1 and title[0] == title[-1] == '"'
    return (title[1:-1] if quoted else title), rest


def _missing_text(row: dict[str, Any], place: str, layout: str) -> str:
    key = "contents" if layout == "flashrag" else "text"
    message = f'{place}: expected the key "{key}", found {list_names(row) or "an empty object"}.'
    lists = [name for name, value in row.items() if isinstance(value, list)]
    if len(row) == 1 and lists:
        return f'{message} The list under "{lists[0]}" must be the whole file.'
    return message + hint_text(row, key)


def _as_text(row: dict[str, Any], key: str, place: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(
            f'{place}: "{key}" must be a string, found {_describe(value)}. Write it in quotes.'
        )
    if "\0" in value:
        raise ValueError(
            f'{place}: "{key}" holds a NUL character, which no text does. Remove it; if there are '
            f"many, the file is UTF-16 and must be saved as UTF-8."
        )
    return value


def _read_id(row: dict[str, Any], place: str, layout: str) -> str:
    """The id of a row, or "" where it has none."""
    key = "_id" if row.get("id") is None and "_id" in row else "id"
    value = row.get(key)
    if value is None:
        if layout == "beir":
            raise ValueError(
                f'{place}: expected the key "_id", as in every row of a BEIR corpus, found '
                f"{list_names(row)}."
            )
        return ""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and value.strip()):
        return str(value)
    raise ValueError(
        f'{place}: "{key}" must be a non-empty string or a whole number, found {_describe(value)}. '
        f'Give every document an id, or leave "{key}" out of the whole file.'
    )


def _describe(value: Any) -> str:
    """`describe`, also for what a table can hold and JSON cannot."""
    known = isinstance(value, str | bool | int | float | list | dict)
    return describe(value) if known else f"a value of the type {type(value).__name__}"
