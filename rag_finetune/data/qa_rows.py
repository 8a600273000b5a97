"""Questions that stand as objects in a JSON list or in JSONL, one object a question."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rag_finetune.data.json_rows import read_placed_objects
from rag_finetune.data.qa_fields import (
    CONTEXT_LISTS,
    Example,
    Reading,
    context_id,
    page_title,
    read_answers,
    read_id,
    read_list,
    read_passage,
    read_positive_ids,
    read_question,
    require_key,
)
from rag_finetune.files import describe

PASSAGE_ID = ("passage_id", "psg_id")

# What a reader of one object takes: the object, its place, how answers are read.
RowReader = Callable[[Mapping[str, Any], str, Reading], Example]


def read_json(row: Mapping[str, Any], place: str, reading: Reading) -> Example:
    """Our own format: `question`, `answers` or `answer`, and maybe `id`, `positive_ids`, `context`.

    The answers may also be an object with a list under `text`, as the Hub's copies of SQuAD have
    them. A `context` (with its `title`) is the gold passage where `positive_ids` names none.
    """
    example = Example(place, read_question(row, place), [], id=read_id(row, place))
    example.positive_ids = read_positive_ids(row, place)
    if not example.positive_ids and row.get("context") is not None:
        passage = read_context(row, place)
        example.positive_ids = [context_id(**passage)]
        example.positive_passages = [passage]
    if isinstance(row.get("answers"), dict):
        spans = row["answers"]
        where = f"{place}: answers"
        require_key("text", spans, where)
        example.unanswerable = spans["text"] == []
        row = {"answers": spans["text"]}
        place = where
    if not example.unanswerable:
        example.answers = read_answers(row, ("answers", "answer"), place, reading)
    return example


def read_nq_open(row: Mapping[str, Any], place: str, reading: Reading) -> Example:
    """NQ-open: `question`, and `answer`, a list."""
    answers = read_answers(row, ("answer",), place, reading)
    return Example(place, read_question(row, place), answers, id=read_id(row, place))


def read_flashrag(row: Mapping[str, Any], place: str, reading: Reading) -> Example:
    """FlashRAG: `id`, `question`, `golden_answers`; its `metadata` is passed over."""
    answers = read_answers(row, ("golden_answers",), place, reading)
    return Example(place, read_question(row, place), answers, id=read_id(row, place))


def read_dpr(row: Mapping[str, Any], place: str, reading: Reading) -> Example:
    """DPR: `question`, `answers`, and `positive_ctxs`, the gold passages."""
    require_key("positive_ctxs", row, place)
    passages = dict(_read_contexts(row, "positive_ctxs", place))
    return Example(
        place,
        read_question(row, place),
        read_answers(row, ("answers",), place, reading),
        id=read_id(row, place),
        positive_ids=list(passages),
        positive_passages=list(passages.values()),
    )


def read_rows(path: str | Path, reading: Reading, read_row: RowReader) -> Iterator[Example]:
    """Read a file of objects with the reader of one."""
    for place, row in _objects(path):
        yield read_row(row, place, reading)


def read_context(row: Mapping[str, Any], place: str) -> dict[str, str]:
    """The passage under `context` and `title`; SQuAD's rows have the name of a page as title."""
    passage = read_passage(row, "context", place)
    if isinstance(row.get("answers"), dict):
        passage["title"] = page_title(passage["title"])
    return passage


def json_contexts(path: str | Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield place, id and passage of every `context`."""
    for place, row in _objects(path):
        if row.get("context") is not None:
            passage = read_context(row, place)
            yield place, context_id(**passage), passage


def dpr_contexts(path: str | Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield place, id and passage of everything that stands under DPR's three lists."""
    for place, row in _objects(path):
        require_key("positive_ctxs", row, place)
        for key in CONTEXT_LISTS:
            for passage_id, passage in _read_contexts(row, key, place):
                yield place, passage_id, passage


def _read_contexts(
    row: Mapping[str, Any], key: str, place: str
) -> Iterator[tuple[str, dict[str, str]]]:
    if row.get(key) is None:
        return
    for number, item in enumerate(read_list(row[key], key, place)):
        where = f"{place}: {key}[{number}]"
        passage = read_passage(item, "text", where)
        yield read_id(item, where, PASSAGE_ID) or context_id(**passage), passage


def _objects(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, row in read_placed_objects(path):
        if not isinstance(row, dict):
            raise ValueError(
                f'{place}: expected an object with "question" and "answers", found '
                f'{describe(row)}. Write {{"question": "…", "answers": ["…"]}}.'
            )
        yield place, row


ROW_FORMATS = {
    name: partial(read_rows, read_row=read_row)
    for name, read_row in (
        ("json", read_json),
        ("dpr", read_dpr),
        ("nq_open", read_nq_open),
        ("flashrag", read_flashrag),
    )
}
