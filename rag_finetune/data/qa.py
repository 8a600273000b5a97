"""Questions with their gold answers: read and checked, split without leaks, served for training."""

import hashlib
import random
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Sequence, Value

from rag_finetune.data.json_rows import list_keys
from rag_finetune.data.qa_fields import Example, Reading
from rag_finetune.data.qa_formats import read_examples

FEATURES = Features(
    {
        "id": Value("string"),
        "question": Value("string"),
        "answers": Sequence(Value("string")),
        "positive_ids": Sequence(Value("string")),
    }
)
PASSAGE = {"title": Value("string"), "text": Value("string")}
TARGETS = ("first", "random", "all")
SHOWN = 3  # places that a warning names


def load_questions(
    path: str | Path,
    *,
    need_answers: bool = True,
    qa_format: str | None = None,
    keep_unanswerable: bool = False,
    max_samples: int | None = None,
) -> Dataset:
    """Read questions, their gold answers and their gold passages, in any of the known formats.

    Our own is a JSON list of objects, or JSONL: each object has `question` (a string), `answers` (a
    list of strings) or `answer`, and may have `id` (its row number otherwise, from 0),
    `positive_ids`, the ids of passages or documents that hold the answer, or `context`, the text of
    one. Other keys are passed over. The other formats are DPR's JSON and its tables, NQ-open,
    FlashRAG, SQuAD, BEIR's qrels, and `train.source` beside `train.target`.

    Args:
        path: the file; for BEIR one under qrels/, for line files the `.source`.
        need_answers: False also takes questions without an answer; their `answers` are [].
        qa_format: one of `QA_FORMATS`; None has it told by the file's name and content.
        keep_unanswerable: keep the questions that SQuAD 2.0 marks as unanswerable, with its
            convention: their only gold answer is the empty string. Skipped otherwise.
        max_samples: read the first so many questions of the file; None for all.

    Returns:
        A dataset with the columns `id`, `question` (strings), `answers` and `positive_ids` (lists
        of strings) and `positive_passages` (lists of {title, text}). Where the file has the gold
        passages themselves, `positive_ids` holds the ids that `iter_contexts` gives them, and
        `resolve_positives` finds them in any index; `positive_passages` is empty otherwise. Where
        the file grades its gold passages, as BEIR's may, `positive_grades` (lists of numbers beside
        `positive_ids`, empty where all are 1) is there too.

    Raises:
        ValueError: the file does not fit its format, a value is of another kind, an id is used
            twice, answers are needed and missing, or there is no question; the message names file,
            place and key.
        OSError: the file cannot be read.
    """
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples must be at least 1, found {max_samples}. Write 100, say.")
    collected = _Collected(str(path))
    reading = Reading(need_answers)
    for number, example in enumerate(read_examples(path, reading, qa_format)):
        if example.unanswerable and not keep_unanswerable:
            collected.skipped += 1
            continue
        collected.add(example, number)
        if len(collected.rows) == max_samples:
            break
    collected.warn(reading)
    return collected.dataset()


@dataclass
class _Collected:
    """The questions of a file as they come, and what is worth a warning about them."""

    path: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: int = 0
    places: dict[str, str] = field(default_factory=dict)  # of each id
    contents: dict[int, str] = field(default_factory=dict)  # place of each hash of a content
    repeated: list[str] = field(default_factory=list)

    def add(self, example: Example, number: int) -> None:
        row_id = str(number) if example.id is None else example.id
        place = example.place
        if row_id in self.places:
            raise ValueError(
                f'{place}: "id" must differ from row to row, found "{row_id}" again, first at '
                f"{self.places[row_id]}. Rename one, or leave out every id."
            )
        self.places[row_id] = place
        answers = [""] if example.unanswerable else example.answers
        content = (example.question, *answers, None, *example.positive_ids)
        first = self.contents.setdefault(hash(content), place)
        if first != place:
            self.repeated.append(f"{place} (as {first})")
        self.rows.append(
            {
                "id": row_id,
                "question": example.question,
                "answers": answers,
                "positive_ids": example.positive_ids,
                "positive_passages": example.positive_passages,
                "positive_grades": example.positive_grades,
            }
        )

    def warn(self, reading: Reading) -> None:
        if self.skipped:
            self._say(
                f"{self.path}: {self.skipped:,} unanswerable questions were skipped. Keep them "
                f"with --keep_unanswerable, with the empty string as their gold answer."
            )
        if self.repeated:
            shown = ", ".join(self.repeated[:SHOWN]) + (", …" if self.repeated[SHOWN:] else "")
            self._say(
                f"{len(self.repeated):,} questions are there twice, with the same answers and "
                f"gold: {shown}. They count twice; delete them if that is not meant."
            )
        if reading.unread:
            self._say(
                f"{len(reading.unread):,} questions have answers that cannot be read and count as "
                f"having none, the first: {reading.unread[0]}"
            )

    def _say(self, message: str) -> None:
        warnings.warn(message, stacklevel=4)

    def dataset(self) -> Dataset:
        if not self.rows:
            found = f"{self.skipped:,} unanswerable ones" if self.skipped else "none"
            raise ValueError(
                f"{self.path}: expected at least one question, found {found}. Check the file."
            )
        features = Features({**FEATURES, "positive_passages": [PASSAGE]})
        if any(row["positive_grades"] for row in self.rows):
            features["positive_grades"] = Sequence(Value("float64"))
        columns = {name: [row[name] for row in self.rows] for name in features}
        return Dataset.from_dict(columns, features=features)


def require_columns(questions: Dataset) -> None:
    """Check that questions have the columns of `FEATURES`; `positive_passages` may be missing.

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
        ValueError: `target` is none of the three, or a question has no answer.
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
        _require_answers(questions)
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

    def question_of(self, item: int) -> int:
        """The row of the question that an item asks."""
        return self._items[item][0]

    def set_epoch(self, epoch: int) -> None:
        """Draw the targets of another epoch from now on; matters for target "random" only."""
        self.epoch = epoch

    def _draw(self, row: int, choices: int) -> int:
        digest = hashlib.sha256(f"{self.seed} {self.epoch} {row}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % choices


def _require_answers(questions: Dataset) -> None:
    without = [row for row, answers in enumerate(questions["answers"][:]) if not answers]
    if without:
        raise ValueError(
            f"Training needs an answer to every question, found none to {len(without):,} of "
            f'{len(questions):,}, the first with the id "{questions[without[0]]["id"]}". '
            f"Leave these questions out, or write their answers."
        )
