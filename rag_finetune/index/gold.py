"""Find the gold passages of questions in an index, by their text."""

import warnings
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Sequence, Value

from rag_finetune.data.qa_fields import context_id, page_title
from rag_finetune.index.store import COLUMNS, PassageIndex

BLOCK = 1000  # passages read at a time


@dataclass(frozen=True)
class Passages:
    """Passages that are in no index yet, and where they came from, for messages."""

    passages: Dataset
    folder: str | Path


def resolve_positives(questions: Dataset, index: PassageIndex | Passages) -> Dataset:
    """Give questions the ids that their gold passages have in an index.

    A gold passage is looked for by its text: white space does not count, and a title only where
    both sides have one. It is found as a passage of the index, or as a whole document that was cut
    into passages, with or without overlap. Questions that name their gold by id alone are left as
    they are. The index is gone through once, in blocks; only the questions' passages are held.

    Args:
        questions: as from `load_questions`; `positive_passages` may be missing.
        index: the opened index, or passages that may become one.

    Returns:
        The questions with `positive_ids` of this index. Where none of a question's gold passages is
        in it, the ids are some that no passage has, so that the question counts as not found.

    Warns:
        UserWarning: gold passages or gold ids are not in the index; with their number.
    """
    passages = _column(questions, "positive_passages")
    ids = questions["positive_ids"][:]
    unknown = {i for row, golds in zip(ids, passages, strict=True) if not golds for i in row}
    golds = _Golds([gold for row in passages for gold in row])
    _go_through(index, golds, unknown)
    missing = []
    for row, wanted in enumerate(passages):
        if wanted:
            found = dict.fromkeys(i for gold in wanted for i in golds.ids_of(gold))
            if not found:
                missing.append(row)
            ids[row] = list(found or dict.fromkeys(context_id(**gold) for gold in wanted))
    _warn_about(questions, missing, sum(map(bool, passages)), unknown, index)
    if not any(passages):
        return questions
    columns = questions.column_names
    kept = questions.remove_columns("positive_ids")
    return kept.add_column("positive_ids", ids, feature=Sequence(Value("string"))).select_columns(
        columns
    )


def gold_rows(questions: Dataset, index: PassageIndex) -> list[list[int]]:
    """Rows of an index that hold the gold passages of each question.

    Args:
        questions: as from `load_questions`.
        index: the opened index.

    Returns:
        For each question rows in the order of its gold ids; of a document that was cut, the rows of
        all pieces. Empty where the index has none.

    Warns:
        UserWarning: see `resolve_positives`.
    """
    golds = resolve_positives(questions, index)["positive_ids"][:]
    held = _held({name for names in golds for name in names}, index)
    return [list(dict.fromkeys(row for name in ids for row in held.get(name, ()))) for ids in golds]


def gold_grades(questions: Dataset, index: PassageIndex | Passages) -> list[dict[str, float]]:
    """Ids of the gold passages of each question, as they stand among passages, and their grades.

    Args:
        questions: as from `load_questions`.
        index: the opened index, or passages that may become one.

    Returns:
        For each question the grades by id, in the order of its gold ids; 1 where nothing is said.
        Of a document that was cut, all pieces have its grade. Empty where there is no such passage.

    Warns:
        UserWarning: see `resolve_positives`.
    """
    resolved = resolve_positives(questions, index)
    golds = resolved["positive_ids"][:]
    given: list[list[float]] = [[] for _ in golds]
    if "positive_grades" in resolved.column_names:
        given = resolved["positive_grades"][:]
    held = _held({name for names in golds for name in names}, index)
    found = []
    for ids, grades in zip(golds, given, strict=True):
        best: dict[str, float] = {}
        for name, grade in zip(ids, grades or [1.0] * len(ids), strict=True):
            for piece in held.get(name, {}).values():
                best[piece] = max(grade, best.get(piece, 0.0))
        found.append(best)
    return found


def _held(names: set[str], index: PassageIndex | Passages) -> dict[str, dict[int, str]]:
    """Of each name the passages that have it as id or document: their rows, with their ids."""
    found: dict[str, dict[int, str]] = {}
    columns = index.passages.select_columns(["id", "document_id"]).with_format(None)
    for number, block in enumerate(columns.iter(batch_size=BLOCK)):
        for row, pair in enumerate(zip(block["id"], block["document_id"], strict=True)):
            for name in names.intersection(pair):
                found.setdefault(name, {})[number * BLOCK + row] = pair[0]
    return found


class _Golds:
    """Gold passages, sorted by text, and the ids under which an index turned out to have them."""

    def __init__(self, passages: list[dict[str, str]]) -> None:
        distinct = {(_bare(p["text"]), _bare_title(p["title"])) for p in passages}
        self.entries = sorted(distinct)
        self.texts = [text for text, _ in self.entries]
        self.by_content = {context_id(**p): _key(p) for p in passages}
        self.found: dict[tuple[str, str], dict[str, None]] = {key: {} for key in distinct}

    def ids_of(self, passage: dict[str, str]) -> list[str]:
        """The ids that were found for a passage."""
        return list(self.found[_key(passage)])

    def starting_with(self, text: str, title: str) -> Iterator[tuple[str, str]]:
        """Gold passages whose text begins with a text, and whose title does not contradict."""
        for position in range(bisect_left(self.texts, text), len(self.texts)):
            if not text or not self.texts[position].startswith(text):
                return
            if not title or self.entries[position][1] in ("", title):
                yield self.entries[position]

    def note(self, key: tuple[str, str], passage_id: str) -> None:
        """Note that an index has a gold passage under an id."""
        self.found[key][passage_id] = None


class _Document:
    """A document as its pieces go by, held against the gold passages that it may be.

    Pieces may overlap. A gold passage is the document's text where its first piece begins it, each
    other one occurs in it further on than the one before, leaving no gap, and the last one ends it.
    """

    def __init__(self, golds: _Golds, document_id: str) -> None:
        self.golds = golds
        self.id = document_id
        self.length = 0  # of the last piece
        # gold passage → where the last piece may stand in it; None before the first piece
        self.starts: dict[tuple[str, str], set[int]] | None = None

    def take(self, piece: str, title: str) -> None:
        """Take the next piece, its text bare."""
        if self.starts is None:
            self.starts = {key: {0} for key in self.golds.starting_with(piece, title)}
        else:
            moved = {key: self._move(key[0], piece, last) for key, last in self.starts.items()}
            self.starts = {key: starts for key, starts in moved.items() if starts}
        self.length = len(piece)

    def finish(self) -> None:
        """Note the gold passages that the whole document equals."""
        for key, starts in (self.starts or {}).items():
            if len(key[0]) - self.length in starts:
                self.golds.note(key, self.id)

    def _move(self, text: str, piece: str, last: set[int]) -> set[int]:
        """Where a piece may stand in a text, given where the one before may stand."""
        found = set()
        end = max(last) + self.length + len(piece)
        start = text.find(piece, min(last) + 1, end)
        while start >= 0:
            latest = min(start, start + len(piece) - self.length)
            if any(start - self.length <= before < latest for before in last):
                found.add(start)
            start = text.find(piece, start + 1, end)
        return found


def _go_through(index: PassageIndex | Passages, golds: _Golds, unknown: set[str]) -> None:
    """Find gold passages in an index, and remove from `unknown` the ids that it has."""
    document = _Document(golds, "")
    names = list(COLUMNS if golds.entries else COLUMNS[:2])
    if not golds.entries and not unknown:
        return
    for block in index.passages.select_columns(names).with_format(None).iter(batch_size=BLOCK):
        unknown -= {*block["id"], *block["document_id"]}
        if not golds.entries:
            continue
        for row in zip(*(block[name] for name in COLUMNS), strict=True):
            document = _take_row(golds, document, *row)
    document.finish()


def _take_row(
    golds: _Golds, document: _Document, row_id: str, document_id: str, title: str, text: str
) -> _Document:
    """Hold one passage against the gold ones; returns the document that it belongs to."""
    if document.id != document_id:
        document.finish()
        document = _Document(golds, document_id)
    for name in dict.fromkeys((row_id, document_id)):
        if name in golds.by_content:
            golds.note(golds.by_content[name], name)
    bare, bare_title = _bare(text), _bare_title(title)
    for key in golds.starting_with(bare, bare_title):
        if len(key[0]) > len(bare):
            break  # sorted: the equal ones come first
        golds.note(key, row_id)
    document.take(bare, bare_title)
    return document


def _warn_about(
    questions: Dataset,
    missing: list[int],
    known: int,
    unknown: set[str],
    index: PassageIndex | Passages,
) -> None:
    if missing:
        example = questions[missing[0]]
        warnings.warn(
            f"{len(missing):,} of {known:,} questions have gold passages of which {index.folder} "
            f"holds none, the first with the id {example['id']!r} ("
            f'"{example["positive_passages"][0]["text"][:60]}…"): they count as not found.',
            stacklevel=3,
        )
    if unknown:
        warnings.warn(
            f"{len(unknown):,} positive_ids are neither the id nor the document_id of a passage of "
            f"{index.folder}, such as {min(unknown)!r}: they count as not found.",
            stacklevel=3,
        )


def _column(questions: Dataset, name: str) -> list[list[dict[str, Any]]]:
    present = name in questions.column_names
    return questions[name][:] if present else [[] for _ in range(len(questions))]


def _key(passage: dict[str, str]) -> tuple[str, str]:
    return _bare(passage["text"]), _bare_title(passage["title"])


def _bare(text: str) -> str:
    """A text without white space, which pieces lose where they are cut."""
    return "".join(text.split())


def _bare_title(title: str) -> str:
    return _bare(page_title(title)).casefold()
