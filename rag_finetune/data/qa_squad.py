"""SQuAD's nested JSON: articles of paragraphs of questions, some of which have no answer."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rag_finetune.data.json_rows import list_keys
from rag_finetune.data.qa_fields import (
    Example,
    Reading,
    context_id,
    page_title,
    read_answers,
    read_id,
    read_list,
    read_passage,
    read_question,
    require_key,
)
from rag_finetune.files import check_characters, describe, read_text


def read_squad(path: str | Path, reading: Reading) -> Iterator[Example]:
    """Read the questions of SQuAD 1.1 or 2.0; each paragraph is the gold passage of its own.

    An answer that was given several times counts once. A question is unanswerable where
    `is_impossible` says so, or where its `answers` are an empty list.
    """
    for place, passage, paragraph in read_paragraphs(path):
        require_key("qas", paragraph, place)
        for number, row in enumerate(read_list(paragraph["qas"], "qas", place)):
            where = f"{place}.qas[{number}]"
            _require_object(row, where)
            unanswerable = is_unanswerable(row, where)
            yield Example(
                where,
                read_question(row, where),
                [] if unanswerable else _read_texts(row, where, reading),
                id=read_id(row, where),
                positive_ids=[context_id(**passage)],
                positive_passages=[passage],
                unanswerable=unanswerable,
            )


def squad_contexts(path: str | Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield place, id and passage of every paragraph."""
    for place, passage, _ in read_paragraphs(path):
        yield place, context_id(**passage), passage


def read_paragraphs(path: str | Path) -> Iterator[tuple[str, dict[str, str], Mapping[str, Any]]]:
    """Yield the paragraphs with where they stand: `file: data[3].paragraphs[2]`.

    Yields:
        Place, the passage (`title` of the article, `text` of the paragraph), and the paragraph.

    Raises:
        ValueError: the file is not JSON, or is laid out otherwise; the message says where.
    """
    for number, article in enumerate(_read_articles(path)):
        place = f"{path}: data[{number}]"
        _require_object(article, place)
        require_key("paragraphs", article, place)
        paragraphs = read_list(article["paragraphs"], "paragraphs", place)
        for position, paragraph in enumerate(paragraphs):
            where = f"{place}.paragraphs[{position}]"
            _require_object(paragraph, where)
            passage = read_passage({**paragraph, "title": article.get("title")}, "context", where)
            yield where, {"title": page_title(passage["title"]), "text": passage["text"]}, paragraph


def is_unanswerable(row: Mapping[str, Any], place: str) -> bool:
    """Tell whether a question is one that its paragraph does not answer.

    Raises:
        ValueError: `is_impossible` is neither true nor false, or is true and there are answers.
    """
    flag = row.get("is_impossible")
    if not (flag is None or isinstance(flag, bool)):
        raise ValueError(
            f'{place}: "is_impossible" must be true or false, found {describe(flag)}. '
            f"Write it without quotes."
        )
    if flag and row.get("answers"):
        raise ValueError(
            f'{place}: expected no "answers" beside "is_impossible": true, found '
            f"{describe(row['answers'])}. Correct one of the two."
        )
    return bool(flag) or row.get("answers") == []


def _read_texts(row: Mapping[str, Any], place: str, reading: Reading) -> list[str]:
    spans = row.get("answers")
    if isinstance(spans, list) and all(isinstance(span, dict) for span in spans):
        texts = [span.get("text") for span in spans]
        row = {**row, "answers": texts}
    return list(dict.fromkeys(read_answers(row, ("answers",), place, reading)))


def _read_articles(path: str | Path) -> list[Any]:
    text = read_text(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}:{error.lineno}: expected SQuAD's JSON, found a syntax error at column "
            f"{error.colno} ({error.msg}). Correct the JSON there."
        ) from error
    check_characters(text, value, str(path))
    if not isinstance(value, dict) or "data" not in value:
        found = f"the keys {list_keys(value)}" if isinstance(value, dict) else describe(value)
        raise ValueError(
            f'{path}: expected SQuAD\'s object with "data", a list of articles, found {found}. '
            f'Write {{"data": [{{"title": "…", "paragraphs": […]}}]}}.'
        )
    return read_list(value["data"], "data", str(path))


def _require_object(value: Any, place: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected an object, found {describe(value)}. Write {{…}}.")
