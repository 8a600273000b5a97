"""TREC run files: the passages found for each question, `qid Q0 docid rank score tag` a line."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from rag_finetune.files import read_lines, staged_file

# Question id → pairs of passage id and score, best first.
Run = dict[str, list[tuple[str, float]]]

FIELDS = "qid Q0 docid rank score tag"
TAG = "rag-finetune"


def load_run(path: str | Path) -> Run:
    """Read a TREC run file.

    The order is that of the scores, in single precision, and among equal ones that of the passage
    ids, the last first, as trec_eval takes it; the ranks of the file are passed over.

    Args:
        path: the file.

    Returns:
        The passages of each question, best first, in the order in which the file names questions.

    Raises:
        ValueError: a line has not six fields, a score is not a number, a passage stands twice under
            a question, or there is no line.
        OSError: the file cannot be read.
    """
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            question_id, passage_id, score = _read_line(line, f"{path}:{number}")
            passages = found.setdefault(question_id, {})
            if passage_id in passages:
                raise ValueError(
                    f'{path}:{number}: the passage "{passage_id}" must stand once under the '
                    f'question "{question_id}", found it again. Delete one of the lines.'
                )
            passages[passage_id] = score
    if not found:
        raise ValueError(f"{path}: expected lines of {FIELDS}, found none. Check the file.")
    return {question_id: _ranked(passages) for question_id, passages in found.items()}


def write_run(
    path: str | Path, found: Mapping[str, Sequence[tuple[str, float]]], tag: str = TAG
) -> None:
    """Write a TREC run file in one step.

    Scores that do not fall from one passage to the next, as equal ones, are written a hair lower
    than the score before, so that whoever sorts by them gets the order given.

    Args:
        path: the file to make or to replace.
        found: for each question pairs of passage id and score, best first.
        tag: the name of the run, in every line.

    Raises:
        ValueError: an id is empty or holds white space, which separates the fields.
        OSError: the file cannot be written.
    """
    check_ids(found)
    with staged_file(Path(path)) as file:
        for question_id, passages in found.items():
            check_ids(passage_id for passage_id, _ in passages)
            falling = _falling(score for _, score in passages)
            for rank, ((passage_id, _), score) in enumerate(
                zip(passages, falling, strict=True), start=1
            ):
                file.write(f"{question_id} Q0 {passage_id} {rank} {score:.9g} {tag}\n")


def check_ids(ids: Iterable[str]) -> None:
    """Raise for an id that a run file cannot hold.

    Raises:
        ValueError: it is empty, or white space is in it.
    """
    for name in ids:
        if name.split() != [name]:
            raise ValueError(
                f'ids in a TREC run must be without white space, found "{name}". Rename it in the '
                "passages or questions, or do without a run file."
            )


def _read_line(line: str, place: str) -> tuple[str, str, float]:
    fields = line.split()
    if len(fields) != len(FIELDS.split()):
        raise ValueError(
            f"{place}: expected the six fields {FIELDS}, found {len(fields)}. Separate them by "
            "spaces or tabs, and have none in the ids."
        )
    question_id, _, passage_id, _, text, _ = fields
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    if np.isnan(score):
        raise ValueError(f'{place}: the score must be a number, found "{text[:60]}". Correct it.')
    return question_id, passage_id, score


def _ranked(passages: Mapping[str, float]) -> list[tuple[str, float]]:
    """Best first, as trec_eval sorts: by scores in single precision, then by ids, last first."""
    pairs = sorted(passages.items(), reverse=True)
    with np.errstate(over="ignore"):
        scores = np.array([score for _, score in pairs]).astype(np.float32)
    return [pairs[row] for row in np.argsort(-scores, kind="stable")]


def _falling(scores: Iterable[float]) -> Iterator[float]:
    """The scores in single precision, each lower than the one before."""
    last = np.float32(np.inf)
    for score in scores:
        last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
        yield float(last)
