"""What every format of questions is made of: one question, and the checks of its fields."""

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from rag_finetune.data.json_rows import list_keys
from rag_finetune.files import describe, nearest

ANSWERLESS = "`train` needs answers; a file without them serves `evaluate --retrieval_only`."
CONTEXT_LISTS = ("positive_ctxs", "negative_ctxs", "hard_negative_ctxs")
# What has a meaning of its own is no near miss of another key.
MEANT = frozenset(("id", "question", "question_id", *CONTEXT_LISTS))


@dataclass
class Example:
    """One question of a file, of whatever format.

    Attributes:
        place: where it stands, for messages.
        question: its text.
        answers: the gold answers; empty where none is known.
        id: as given by the file; None where it gives none.
        positive_ids: ids of its gold passages or documents.
        positive_passages: `title` and `text` of each, in the same order; empty where the file
            gives nothing but ids.
        positive_grades: how relevant each of `positive_ids` is, above 0; empty where all are alike.
        unanswerable: the file says that the question has no answer.
    """

    place: str
    question: str
    answers: list[str]
    id: str | None = None
    positive_ids: list[str] = field(default_factory=list)
    positive_passages: list[dict[str, str]] = field(default_factory=list)
    positive_grades: list[float] = field(default_factory=list)
    unanswerable: bool = False


@dataclass
class Reading:
    """How the answers of a file are read.

    Attributes:
        need_answers: a question without a valid answer is an error.
        unread: where not, the messages of answers that were given and could not be read.
    """

    need_answers: bool = True
    unread: list[str] = field(default_factory=list)


def context_id(title: str, text: str) -> str:
    """The id of a passage that has none: 16 hexadecimal digits that follow from its content."""
    return hashlib.sha256(f"{title}\0{text}".encode()).hexdigest()[:16]


def page_title(title: str) -> str:
    """A title as people write it, from the name of a Wikipedia page, as SQuAD gives it."""
    return unquote(title).replace("_", " ")


def read_string(row: Mapping[str, Any], key: str, place: str, remedy: str) -> str:
    """A string that is not blank.

    Raises:
        ValueError: the key is missing, or its value is something else.
    """
    require_key(key, row, place)
    value = row[key]
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError(
        f'{place}: "{key}" must be a non-empty string, found {describe(value)}. {remedy}'
    )


def read_question(row: Mapping[str, Any], place: str) -> str:
    """The text under "question"."""
    return read_string(row, "question", place, "Write it, or delete the row.")


def read_passage(row: Any, key: str, place: str) -> dict[str, str]:
    """A gold passage: the text under `key`, and the title, which may be missing.

    Raises:
        ValueError: it is no object, the text is missing or blank, or the title is no string.
    """
    if not isinstance(row, Mapping):
        raise ValueError(
            f'{place}: expected an object with "title" and "{key}", found {describe(row)}. '
            f'Write {{"title": "…", "{key}": "…"}}.'
        )
    title = row.get("title")
    if title is not None and not isinstance(title, str):
        raise ValueError(
            f'{place}: "title" must be a string, found {describe(title)}. Write it in quotes.'
        )
    text = read_string(row, key, place, "Write the text of the passage, or leave it out.")
    return {"title": title or "", "text": text}


def read_list(value: Any, key: str, place: str) -> list[Any]:
    """A list, of whatever.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, list):
        return value
    raise ValueError(f'{place}: "{key}" must be a list, found {describe(value)}. Write […].')


def read_answers(
    row: Mapping[str, Any], keys: tuple[str, ...], place: str, reading: Reading
) -> list[str]:
    """The gold answers under one of several keys.

    Args:
        row: the object that holds them.
        keys: where they may stand; "answer" also takes one string.
        place: where the object stands.
        reading: whether there must be any; answers that cannot be read are noted in it otherwise.

    Returns:
        The answers; empty where none is needed and none can be read.

    Raises:
        ValueError: answers are needed, and missing, of another kind, or given under two keys.
    """
    if reading.need_answers:
        return _read_answers(row, keys, place)
    if all(row.get(key) in (None, "", [], "[]") for key in keys):
        return []
    try:
        return _read_answers(row, keys, place)
    except ValueError as error:
        reading.unread.append(str(error))
        return []


def _read_answers(row: Mapping[str, Any], keys: tuple[str, ...], place: str) -> list[str]:
    given = [key for key in keys if key in row]
    if len(given) > 1:
        raise ValueError(
            f'{place}: expected "answers" or "answer", found both. Delete one of them.'
        )
    if not given:
        require_key(keys[0], row, place, remedy=f"Add it: {ANSWERLESS}")
    value = row[given[0]]
    if given == ["answer"] and not isinstance(value, list) and len(keys) > 1:
        remedy = 'Write several answers as "answers": ["…", "…"].'
        answer = read_string(row, "answer", place, remedy)
        return parse_list(answer) or [answer]
    if isinstance(value, str):
        value = parse_list(value) or value
    return check_answers(value, given[0], place)


def check_answers(answers: Any, key: str, place: str) -> list[str]:
    """A list of strings none of which is blank.

    Raises:
        ValueError: it is something else.
    """
    found = describe(answers)
    if isinstance(answers, list) and answers:
        wrong = [item for item in answers if not (isinstance(item, str) and item.strip())]
        if not wrong:
            return answers
        found = f"{describe(wrong[0])} in it"
    is_text = isinstance(answers, str) and answers.strip() and not answers.lstrip().startswith("[")
    given = answers if is_text else "…"
    raise ValueError(
        f'{place}: "{key}" must be a non-empty list of strings, found {found}. '
        f"Write [{json.dumps(given, ensure_ascii=False)}]."
    )


def parse_list(text: str) -> list[str]:
    """The strings of a list that was written as Python writes it: `['a', "b's"]`.

    Args:
        text: what may be such a list; it is parsed, never evaluated.

    Returns:
        Its strings; empty where it is none, is empty, or holds anything but strings.
    """
    if not text.lstrip().startswith(("[", "(")):
        return []
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return []
    strings = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    return list(value) if strings else []


def read_positive_ids(row: Mapping[str, Any], place: str) -> list[str]:
    """The ids under "positive_ids"; empty where there are none.

    Raises:
        ValueError: it is no list of ids.
    """
    ids = row.get("positive_ids")
    if ids is None:
        return []
    if not isinstance(ids, list):
        raise ValueError(
            f'{place}: "positive_ids" must be a list of passage ids, found {describe(ids)}. '
            f"Write [{json.dumps(ids, ensure_ascii=False)}]."
        )
    return [as_id(item, "positive_ids", place) for item in ids]


def read_id(row: Mapping[str, Any], place: str, keys: tuple[str, ...] = ("id",)) -> str | None:
    """The first id given under any of the keys; None where there is none."""
    key = next((key for key in keys if row.get(key) is not None), None)
    return None if key is None else as_id(row[key], key, place)


def as_id(value: Any, key: str, place: str) -> str:
    """An id as a string.

    Raises:
        ValueError: it is neither a string that is not blank nor a whole number.
    """
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and value.strip()):
        return str(value)
    raise ValueError(
        f'{place}: an id in "{key}" must be a non-empty string or a whole number, '
        f"found {describe(value)}. Write the id in quotes."
    )


def require_key(key: str, row: Mapping[str, Any], place: str, remedy: str = "Add it.") -> None:
    """Check that an object has a key.

    Raises:
        ValueError: it has not; the message names the keys that it has, and one that is alike.
    """
    if key not in row:
        guess = nearest(key, (name for name in row if name not in MEANT))
        hint = f'Rename "{guess}" to "{key}" if that is meant.' if guess else remedy
        found = list_keys(row) or "an empty object"
        raise ValueError(f'{place}: expected the key "{key}", found {found}. {hint}')
