"""What a retriever learns from: questions with their positives and hard negatives, as token ids."""

import hashlib
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from datasets import Dataset
from torch import Tensor

from rag_finetune.data.candidates import Candidates, load_candidates
from rag_finetune.data.qa_formats import detect_format
from rag_finetune.metrics.answers import has_answer
from rag_finetune.retrieval.mining import bare_text
from rag_finetune.retrieval.rerank import passage_text

BLOCK = 1000  # passages read at a time


@dataclass
class PassageTable:
    """The distinct passages that training reads, by the row under which they are known.

    Attributes:
        titles: of each passage.
        texts: of each passage.
        copies: of each passage a number that all passages of its text share, whatever their title;
            white space and case do not count.
    """

    titles: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
    _rows: dict[tuple[str, str], int] = field(default_factory=dict)
    _copies: dict[bytes, int] = field(default_factory=dict)

    def row(self, title: str, text: str) -> int:
        """The row of a passage; a new one where it is not there yet."""
        row = self._rows.setdefault((title, text), len(self.texts))
        if row == len(self.texts):
            self.titles.append(title)
            self.texts.append(text)
            bare = hashlib.sha256(bare_text(text).encode(errors="surrogatepass")).digest()
            self.copies.append(self._copies.setdefault(bare, row))
        return row

    def whole_text(self, row: int) -> str:
        """A passage as a cross-encoder reads it, and as an answer is looked for in it."""
        return passage_text({"title": self.titles[row], "text": self.texts[row]})


class Teacher(Protocol):
    """Whatever knows how well passages answer questions."""

    def scores(self, rows: Sequence[int], passages: Sequence[int]) -> Tensor:
        """On the scale of logits, shape (rows, passages)."""


class RetrieverExamples:
    """Questions with a positive and hard negatives each, as a map-style dataset.

    Items are `{"row": i, "positive": p, "negatives": [n, …]}`, rows of `questions` and of
    `passages`. Where a question has several positives, or more negatives than are asked for, some
    are drawn anew each epoch; the draw depends on seed, epoch and row alone, also on a resumed run.

    Attributes:
        questions: the texts.
        answers: the gold answers of each; empty where none is known.
        passages: the distinct passages.
        positives: rows of the gold passages of each question, at least one.
        negatives: rows of its hard negatives.
        teacher_scores: of a cross-encoder, by (question, passage).
        teacher: scores any of `questions` with any of `passages`, in place of `teacher_scores`.
    """

    def __init__(
        self,
        questions: Dataset,
        passages: Dataset,
        candidates: Sequence[Candidates] | None = None,
        *,
        n_negatives: int = 0,
        seed: int = 42,
    ) -> None:
        """Find the texts of positives and negatives; questions without a positive are left out.

        Args:
            questions: as from `resolve_positives`: positive_ids are those of `passages`.
            passages: columns id, document_id, title, text.
            candidates: of each question, as from `load_candidates`; None for none.
            n_negatives: hard negatives of a question and step.
            seed: of the draws.

        Raises:
            ValueError: no question has a positive, or none a hard negative although they are
                asked for.
        """
        self.n_negatives, self.seed, self.epoch = n_negatives, seed, 0
        self.passages = PassageTable()
        self.questions: list[str] = []
        self.answers: list[list[str]] = []
        self.positives: list[list[int]] = []
        self.negatives: list[list[int]] = []
        self.teacher_scores: dict[tuple[int, int], float] = {}
        self.teacher: Teacher | None = None
        by_id = _texts_of({i for golds in questions["positive_ids"][:] for i in golds}, passages)
        missing = []
        for row, example in enumerate(questions):
            mined = candidates[row] if candidates is not None else Candidates()
            if not self._add(example, by_id, mined):
                missing.append(example["id"])
        self._check(missing, len(questions))

    def __len__(self) -> int:
        """Number of questions."""
        return len(self.questions)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One item; an index out of range raises IndexError."""
        row = range(len(self))[row]
        draw = random.Random(hashlib.sha256(f"{self.seed} {self.epoch} {row}".encode()).digest())
        known = self.negatives[row]
        return {
            "row": row,
            "positive": draw.choice(self.positives[row]),
            "negatives": draw.sample(known, min(self.n_negatives, len(known))),
        }

    def set_epoch(self, epoch: int) -> None:
        """Draw for another epoch from now on."""
        self.epoch = epoch

    def excluded(self, rows: Sequence[int], passages: Sequence[int]) -> Tensor:
        """Which passages are no negatives of which questions, by the rules of `NegativeMiner`.

        Args:
            rows: questions.
            passages: rows of passages; one that stands there again is excluded for all.

        Returns:
            True for gold passages, copies of their texts, and those that hold an answer, in the
            title too; shape (rows, passages).
        """
        repeated = _repeated(passages)
        copies = [self.passages.copies[passage] for passage in passages]
        texts = [self.passages.whole_text(passage) for passage in passages]
        flags = []
        for row in rows:
            golds = {self.passages.copies[gold] for gold in self.positives[row]}
            answers = self.answers[row]
            flags.append(
                [
                    again or copy in golds or has_answer(text, answers)
                    for again, copy, text in zip(repeated, copies, texts, strict=True)
                ]
            )
        return torch.tensor(flags)

    def teacher_of(self, rows: Sequence[int], passages: Sequence[int]) -> Tensor:
        """A teacher's scores, NaN where there is none, shape (rows, passages).

        A passage that stands there again has none: gathered from two processes, it counts once.
        """
        none = float("nan")
        if self.teacher is not None:
            scores = self.teacher.scores(rows, passages)
        else:
            known = self.teacher_scores
            scores = torch.tensor([[known.get((row, p), none) for p in passages] for row in rows])
        return scores.masked_fill(torch.tensor(_repeated(passages)), none)

    def _add(self, example: Any, by_id: dict[str, list[tuple[str, str]]], mined: Any) -> bool:
        """Take a question; False where it has no positive."""
        texts = [text for name in example["positive_ids"] for text in by_id.get(name, [])]
        holding = [text for text in texts if has_answer(text[1], example["answers"])]
        given = [(p["title"], p["text"]) for p in example.get("positive_passages") or []]
        golds = dict.fromkeys(self.passages.row(*text) for text in holding or texts or given)
        if not golds:
            return False
        row = len(self.questions)
        negatives: dict[int, None] = {}
        for candidate in [*mined.positives, *mined.negatives]:
            passage = self.passages.row(candidate.title, candidate.text)
            if candidate.cross_encoder_score is not None:
                self.teacher_scores[row, passage] = candidate.cross_encoder_score
            if candidate in mined.negatives and passage not in golds:
                negatives[passage] = None
        self.questions.append(example["question"])
        self.answers.append(list(example["answers"]))
        self.positives.append(list(golds))
        self.negatives.append(list(negatives))
        return True

    def _check(self, missing: Sequence[str], count: int) -> None:
        """Say what is left out, and refuse what cannot be trained on."""
        if not self.questions:
            raise ValueError(
                f"None of the {count:,} questions has a gold passage among the passages. Give "
                "positive_ids, or positive_ctxs as in DPR's files, and the passages they are of."
            )
        if missing:
            warnings.warn(
                f"{len(missing):,} of {count:,} questions have no gold passage among the passages "
                f"and are left out, the first with the id {missing[0]!r}.",
                stacklevel=3,
            )
        if self.n_negatives and not any(self.negatives):
            raise ValueError(
                "Hard negatives are asked for, and no question has any: give a file with "
                "hard_negative_ctxs, as `rag-finetune mine-negatives` writes it, or "
                "--n_negatives 0."
            )


def _repeated(passages: Sequence[int]) -> list[bool]:
    """Of each passage whether it stands there before."""
    first = {passage: column for column, passage in reversed(list(enumerate(passages)))}
    return [first[passage] != column for column, passage in enumerate(passages)]


def load_mined(path: str, count: int, qa_format: str | None = None) -> list[Candidates] | None:
    """The candidates of a question file; None where it is not of DPR's format.

    Raises:
        ValueError: a candidate is malformed, or the file holds another number of questions.
    """
    if (qa_format or detect_format(path)) != "dpr":
        return None
    mined = load_candidates(path)
    if len(mined) != count:
        raise ValueError(
            f"{path}: expected the candidates of {count:,} questions, found {len(mined):,}. Read "
            "all questions of the file."
        )
    return mined


def _texts_of(names: set[str], passages: Dataset) -> dict[str, list[tuple[str, str]]]:
    """Title and text of the passages that an id names, itself or as pieces of a document."""
    found: dict[str, list[tuple[str, str]]] = {}
    columns = passages.select_columns(["id", "document_id", "title", "text"]).with_format(None)
    for block in columns.iter(batch_size=BLOCK):
        for own, document, *text in zip(*block.values(), strict=True):
            for name in {own, document} & names:
                found.setdefault(name, []).append((text[0], text[1]))
    return found
