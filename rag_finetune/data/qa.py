"""Questions with their gold answers: read and checked, split without leaks, served for training."""

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Sequence, Value

from rag_finetune.data.json_rows import list_keys, read_objects
from rag_finetune.files import describe, nearest

FEATURES = Features(
    {
        "id": Value("string"),
        "question": Value("string"),
        "answers": Sequence(Value("string")),
        "positive_ids": Sequence(Value("string")),
    }
)
TARGETS = ("first", "random", "all")


def load_questions(path: str | Path, *, need_answers: bool = True) -> Dataset:
    """Read questions and answers from a JSON list of objects, or from JSONL.

    Each object has `question` (a string), `answers` (a list of strings) or `answer` (one string),
    and may have `id` (its row number otherwise, from 0) and `positive_ids`, the ids of passages or
    documents that hold the answer. Other keys are passed over.

    Args:
        path: the file; whether it is a list or JSONL is told by its content.
        need_answers: False reads questions that are only to be answered; their `answers` are [].

    Returns:
        A dataset with the columns `id`, `question` (strings), `answers` and `positive_ids` (lists
        of strings; `positive_ids` is empty where the file gives none).

    Raises:
        ValueError: the file is not such JSON, a value is of another kind, an id is used twice, or
            there is no question; the message names file, line and key.
        OSError: the file cannot be read.
    """
    columns: dict[str, list[Any]] = {name: [] for name in FEATURES}
    lines: dict[str, int] = {}
    for number, (line, row) in enumerate(read_objects(path)):
        example = _read_example(row, number, f"{path}:{line}", need_answers)
        if example["id"] in lines:
            raise ValueError(
                f'{path}:{line}: "id" must differ from row to row, found "{example["id"]}" again, '
                f"first at {path}:{lines[example['id']]}. Rename one, or leave out every id."
            )
        lines[example["id"]] = line
        for name, column in columns.items():
            column.append(example[name])
    if not lines:
        raise ValueError(f"{path}: expected at least one question, found none. Check the file.")
    return Dataset.from_dict(columns, features=FEATURES)


def _read_example(row: Any, number: int, place: str, need_answers: bool) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(
            f'{place}: expected an object with "question" and "answers", found {describe(row)}. '
            f'Write {{"question": "…", "answers": ["…"]}}.'
        )
    return {
        "id": str(number) if row.get("id") is None else _as_id(row["id"], "id", place),
        "question": _read_string(row, "question", place, "Write it, or delete the row."),
        "answers": _read_answers(row, place) if need_answers else [],
        "positive_ids": _read_positive_ids(row, place),
    }


def _read_string(row: dict[str, Any], key: str, place: str, remedy: str) -> str:
    _require(key, row, place)
    value = row[key]
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError(
        f'{place}: "{key}" must be a non-empty string, found {describe(value)}. {remedy}'
    )


def _read_answers(row: dict[str, Any], place: str) -> list[str]:
    if "answers" in row and "answer" in row:
        raise ValueError(
            f'{place}: expected "answers" or "answer", found both. Delete one of them.'
        )
    if "answer" in row:
        remedy = 'Write several answers as "answers": ["…", "…"].'
        return [_read_string(row, "answer", place, remedy)]
    _require("answers", row, place)
    answers = row["answers"]
    found = describe(answers)
    if isinstance(answers, list) and answers:
        wrong = [item for item in answers if not (isinstance(item, str) and item.strip())]
        if not wrong:
            return answers
        found = f"{describe(wrong[0])} in it"
    given = answers if isinstance(answers, str) and answers.strip() else "…"
    raise ValueError(
        f'{place}: "answers" must be a non-empty list of strings, found {found}. '
        f"Write [{json.dumps(given, ensure_ascii=False)}]."
    )


def _read_positive_ids(row: dict[str, Any], place: str) -> list[str]:
    ids = row.get("positive_ids")
    if ids is None:
        return []
    if not isinstance(ids, list):
        raise ValueError(
            f'{place}: "positive_ids" must be a list of passage ids, found {describe(ids)}. '
            f"Write [{json.dumps(ids, ensure_ascii=False)}]."
        )
    return [_as_id(item, "positive_ids", place) for item in ids]


def _as_id(value: Any, key: str, place: str) -> str:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and value.strip()):
        return str(value)
    raise ValueError(
        f'{place}: an id in "{key}" must be a non-empty string or a whole number, '
        f"found {describe(value)}. Write the id in quotes."
    )


def _require(key: str, row: dict[str, Any], place: str) -> None:
    if key not in row:
        guess = nearest(key, row)
        hint = f'Did you mean it by "{guess}"?' if guess else "Add it."
        found = list_keys(row) or "an empty object"
        raise ValueError(f'{place}: expected the key "{key}", found {found}. {hint}')


def require_columns(questions: Dataset) -> None:
    """Check that questions have the columns that `load_questions` gives.

    Raises:
        ValueError: a column is missing; the message names it.
    """
    missing = [name for name in FEATURES if name not in questions.column_names]
    if missing:
        raise ValueError(
            f"Questions need the columns {list_keys(FEATURES)}; {list_keys(missing)} is missing. "
            'Read them with load_questions, or add it ("positive_ids" may be empty lists).'
        )


def split_by_document(
    questions: Dataset, fraction: float, seed: int = 42
) -> tuple[Dataset, Dataset]:
    """Hold out questions so that no document stands behind questions on both sides.

    Questions that share a positive id, directly or through other questions, stay together; the
    pieces of a document (`a#1`, `a#2`) count as the document. Questions without positive ids are
    moved one by one. Groups are drawn as long as they fit; if none does, the smallest is held out.

    Args:
        questions: as from `load_questions`.
        fraction: share of the questions to hold out, between 0 and 1; met as far as groups allow.
        seed: another seed draws other groups.

    Returns:
        The questions to train on and those held out, each in the original order.

    Raises:
        ValueError: `fraction` is not between 0 and 1, or all questions hang together.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, found {fraction}. Write 0.1, say.")
    groups = _connected_groups(questions["positive_ids"][:])
    if len(groups) < 2:
        raise ValueError(
            f"expected questions on at least two unconnected documents to split, found "
            f"{len(questions)} questions that hang together. Give a validation file of its own."
        )
    wanted = min(max(1, round(fraction * len(questions))), len(questions) - 1)
    random.Random(seed).shuffle(groups)
    held_out: set[int] = set()
    for group in groups:
        if len(held_out) + len(group) <= wanted:
            held_out.update(group)
    smallest = min(groups, key=len)
    held_out = held_out or set(smallest)
    train = [row for row in range(len(questions)) if row not in held_out]
    return questions.select(train), questions.select(sorted(held_out))


def _connected_groups(positive_ids: list[list[str]]) -> list[list[int]]:
    """Group the rows whose documents are linked: union-find over rows."""
    parent = list(range(len(positive_ids)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first_row: dict[str, int] = {}  # of each document
    for row, ids in enumerate(positive_ids):
        for passage_id in ids:
            document_id = re.sub(r"#\d+$", "", passage_id)
            parent[root(row)] = root(first_row.setdefault(document_id, row))
    groups: dict[int, list[int]] = {}
    for row in range(len(positive_ids)):
        groups.setdefault(root(row), []).append(row)
    return list(groups.values())


class TrainingQuestions:
    """Questions with one target answer each, as a map-style dataset for a DataLoader.

    Items are `{"row": i, "question": str, "target": str}`; `row` is the index of the item.

    Args:
        questions: as from `load_questions`; kept as the attribute `questions`.
        target: "first" takes the first gold answer; "random" one of them, drawn anew each epoch;
            "all" makes one item of each gold answer, in order.
        seed: for "random"; the draw depends on seed, epoch and row alone, also on a resumed run.

    Raises:
        ValueError: `target` is none of the three.
    """

    def __init__(self, questions: Dataset, target: str = "first", seed: int = 42) -> None:
        """Keep the questions and count the items; see the class."""
        if target not in TARGETS:
            choices = list_keys(TARGETS)
            raise ValueError(f'target must be one of {choices}, found "{target}". Write one.')
        self.questions = questions
        self.target = target
        self.seed = seed
        self.epoch = 0
        copies = [len(answers) if target == "all" else 1 for answers in questions["answers"][:]]
        self._items = [(row, copy) for row, count in enumerate(copies) for copy in range(count)]

    def __len__(self) -> int:
        """Count the items: questions, or gold answers with target "all"."""
        return len(self._items)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Return one item; an index out of range raises IndexError."""
        item = range(len(self))[i]
        row, answer = self._items[item]
        example = self.questions[row]
        if self.target == "random":
            answer = self._draw(item, len(example["answers"]))
        return {"row": item, "question": example["question"], "target": example["answers"][answer]}

    def set_epoch(self, epoch: int) -> None:
        """Draw the targets of another epoch from now on; matters for target "random" only."""
        self.epoch = epoch

    def _draw(self, row: int, choices: int) -> int:
        digest = hashlib.sha256(f"{self.seed} {self.epoch} {row}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % choices
