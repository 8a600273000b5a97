"""The passages that a file of questions names beside the gold ones: DPR's mined hard negatives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_finetune.data.json_rows import read_placed_objects
from rag_finetune.data.qa_fields import read_id, read_list, read_passage
from rag_finetune.data.qa_rows import PASSAGE_ID
from rag_finetune.files import describe

TEACHER_SCORE = "cross_encoder_score"


@dataclass(frozen=True)
class Candidate:
    """A passage that stands under a question.

    Attributes:
        title: its title; "" for none.
        text: its text.
        id: of the passage, where the file gives one.
        cross_encoder_score: what a cross-encoder gave question and passage, as a logit; None where
            none did.
    """

    title: str
    text: str
    id: str | None = None
    cross_encoder_score: float | None = None


@dataclass(frozen=True)
class Candidates:
    """What a question is trained with.

    Attributes:
        positives: the passages under `positive_ctxs`.
        negatives: those under `hard_negative_ctxs`, the hardest first, as they stand.
    """

    positives: list[Candidate] = field(default_factory=list)
    negatives: list[Candidate] = field(default_factory=list)


def load_candidates(path: str | Path) -> list[Candidates]:
    """Read the candidates of a question file, one entry a question, in the order of the file.

    Args:
        path: DPR's JSON, as `mine-negatives` and DPR's own scripts write it, or any other file of
            objects; a question without either list has no candidates.

    Returns:
        One entry for each question that `load_questions` gives of the same file.

    Raises:
        ValueError: a candidate is malformed; the message names file, line and key.
        OSError: the file cannot be read.
    """
    found = []
    for place, row in read_placed_objects(path):
        if not isinstance(row, Mapping):
            raise ValueError(f"{place}: expected an object, found {describe(row)}. Write {{…}}.")
        found.append(
            Candidates(
                positives=_read(row, "positive_ctxs", place),
                negatives=_read(row, "hard_negative_ctxs", place),
            )
        )
    return found


def _read(row: Mapping[str, Any], key: str, place: str) -> list[Candidate]:
    """The passages under a key, each once."""
    if row.get(key) is None:
        return []
    distinct: dict[tuple[str, str], Candidate] = {}
    for number, item in enumerate(read_list(row[key], key, place)):
        where = f"{place}: {key}[{number}]"
        passage = read_passage(item, "text", where)
        candidate = Candidate(
            **passage,
            id=read_id(item, where, PASSAGE_ID),
            cross_encoder_score=_read_score(item, where),
        )
        distinct.setdefault((candidate.title, candidate.text), candidate)
    return list(distinct.values())


def _read_score(item: Mapping[str, Any], place: str) -> float | None:
    """A teacher's score; None where there is none."""
    value = item.get(TEACHER_SCORE)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(
            f'{place}: "{TEACHER_SCORE}" must be a number, found {describe(value)}. Write the '
            "logit of the cross-encoder, without quotes, or leave it out."
        )
    return float(value)
