"""The formats that questions come in: their names, and which one a file has."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rag_finetune.data.json_rows import first_line, list_keys, parse_json, read_objects
from rag_finetune.data.qa_fields import CONTEXT_LISTS, Example, Reading, context_id
from rag_finetune.data.qa_rows import ROW_FORMATS, dpr_contexts, json_contexts
from rag_finetune.data.qa_squad import read_squad, squad_contexts
from rag_finetune.data.qa_tables import (
    is_qrels,
    read_beir,
    read_dpr_table,
    read_lines_in_pairs,
    refuse_beir_folder,
)
from rag_finetune.files import nearest, read_text

READERS: dict[str, Callable[[str | Path, Reading], Iterator[Example]]] = {
    **ROW_FORMATS,
    "dpr_table": read_dpr_table,
    "squad": read_squad,
    "beir": read_beir,
    "lines": read_lines_in_pairs,
}
CONTEXT_READERS = {"json": json_contexts, "dpr": dpr_contexts, "squad": squad_contexts}
QA_FORMATS = tuple(READERS)


def read_examples(
    path: str | Path, reading: Reading, qa_format: str | None = None
) -> Iterator[Example]:
    """Read the questions of a file one by one, as the file gives them.

    Args:
        path: the file.
        reading: how its answers are read.
        qa_format: one of `QA_FORMATS`; None has it told by name and content.

    Returns:
        The questions, unanswerable ones included.

    Raises:
        ValueError: there is no such format, or the file does not fit it.
        OSError: the file cannot be read.
    """
    return READERS[_format_of(path, qa_format)](path, reading)


def iter_contexts(path: str | Path, qa_format: str | None = None) -> Iterator[dict[str, str]]:
    """Read the passages that a file of questions brings along, each once.

    These are SQuAD's paragraphs, everything under DPR's `positive_ctxs`, `negative_ctxs` and
    `hard_negative_ctxs`, and what stands under `context` in other JSON. An index made of them has
    the ids that `load_questions` gives as `positive_ids` for the same file.

    Args:
        path: the file.
        qa_format: one of `QA_FORMATS`; None has it told by name and content.

    Yields:
        `id` (DPR's `passage_id`, else 16 digits that follow from title and text), `title`, `text`.

    Raises:
        ValueError: the file brings no passages along, or an id stands for two texts.
        OSError: the file cannot be read.
    """
    name = _format_of(path, qa_format)
    if name not in CONTEXT_READERS:
        raise ValueError(
            f'{path}: expected questions with their passages, found the format "{name}", which '
            f"has none. Give the file of passages itself."
        )
    seen: dict[str, str] = {}  # id → id that follows from the content
    for place, passage_id, passage in CONTEXT_READERS[name](path):
        content = context_id(**passage)
        if passage_id not in seen:
            seen[passage_id] = content
            yield {"id": passage_id, **passage}
        elif seen[passage_id] != content:
            raise ValueError(
                f'{place}: the passage id "{passage_id}" stands for another title or text further '
                f"up. Give every passage its own id, or leave the ids out."
            )
    if not seen:
        raise ValueError(f'{path}: expected passages under "context", found none. Check the file.')


def _format_of(path: str | Path, qa_format: str | None) -> str:
    refuse_beir_folder(path)
    if qa_format is None:
        return detect_format(path)
    if qa_format not in QA_FORMATS:
        guess = nearest(qa_format, QA_FORMATS)
        hint = f'Did you mean "{guess}"?' if guess else "Write one of them."
        raise ValueError(
            f'qa_format must be one of {list_keys(QA_FORMATS)}, found "{qa_format}". {hint}'
        )
    return qa_format


def detect_format(path: str | Path) -> str:
    """Tell the format of a file of questions by its name and its first row.

    Args:
        path: the file.

    Returns:
        One of `QA_FORMATS`; "json" for whatever is no other, so that its reader says what is wrong.

    Raises:
        ValueError: the file is not UTF-8, or its first row is not the JSON it seems to be.
        OSError: the file cannot be read.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".source", ".target"):
        return "lines"
    if suffix in (".csv", ".tsv"):
        return "beir" if is_qrels(path) else "dpr_table"
    row = _first_row(path)
    if "question" not in row:
        if isinstance(row.get("data"), list):
            return "squad"
        if {"_id", "text"} <= row.keys():
            raise ValueError(
                f"{path}: expected questions, found rows with {list_keys(row)}. If these are "
                f"BEIR's queries, give a file under qrels/."
            )
    if any(key in row for key in CONTEXT_LISTS):
        return "dpr"
    return "flashrag" if "golden_answers" in row else "json"


def _first_row(path: str | Path) -> dict[str, Any]:
    """The first object of a list or of JSONL, or the one object of the file; {} where none is."""
    line = first_line(path).lstrip()
    row: Any = None
    if line.startswith("["):
        row = next((row for _, row in read_objects(path)), None)
    elif line.startswith("{"):
        row = parse_json(line) or parse_json(read_text(path))
    return row if isinstance(row, dict) else {}
