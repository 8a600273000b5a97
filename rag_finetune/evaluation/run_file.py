"""Measure what another search found: the passages of a TREC run file."""

import re
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from datasets import Dataset

from rag_finetune.data.qa import require_columns
from rag_finetune.data.trec import Run
from rag_finetune.evaluation.evaluate import Evaluation
from rag_finetune.evaluation.measure import Evaluated, measure_answer_recall, measure_gold
from rag_finetune.index.gold import resolve_positives
from rag_finetune.index.store import PassageIndex
from rag_finetune.metrics.retrieval import KS

BLOCK = 10_000  # ids of an index read at a time


def evaluate_run(run: Run, questions: Dataset, index: PassageIndex | None = None) -> Evaluation:
    """Take the figures of retrieval from a run.

    Args:
        run: the passages found for each question, as `load_run` gives them.
        questions: as from `load_questions`; those that the run leaves out count as not found.
        index: holds the texts of the passages, for figures of the answers; None does without these,
            and takes `a#2` for a piece of the document `a`.

    Returns:
        Metrics, as of `evaluate_retrieval` but for the retriever's health, and predictions.

    Raises:
        ValueError: the run has none of the questions, or the index none of the run's passages.
    """
    require_columns(questions)
    if index is not None:
        questions = resolve_positives(questions, index)
    ids = list(questions["id"])
    missing = [row_id for row_id in ids if row_id not in run]
    if len(missing) == len(ids):
        raise ValueError(
            f'The run has none of the {len(ids):,} questions: expected ids such as "{ids[0]}", '
            f'found "{next(iter(run))}". Give the run that belongs to the questions.'
        )
    if missing:
        warnings.warn(
            f"{len(missing):,} of {len(ids):,} questions are not in the run, the first with the id "
            f'"{missing[0]}": they count as not found.',
            stacklevel=2,
        )
    texts = {} if index is None else _texts_of(run, ids, index)
    rows = [
        Evaluated(question, [_passage(*found, texts) for found in run.get(question["id"], [])], [])
        for question in questions
    ]
    metrics = measure_gold(rows, KS)
    if index is not None:
        metrics |= measure_answer_recall(rows, KS, index)
    metrics["n_examples"] = len(rows)
    return Evaluation(metrics, [row.prediction() for row in rows])


def _passage(passage_id: str, score: float, texts: dict[str, dict[str, str]]) -> dict[str, Any]:
    """What is known of a passage of a run."""
    unknown = {"document_id": re.sub(r"#\d+$", "", passage_id), "title": "", "text": ""}
    return {"id": passage_id, **texts.get(passage_id, unknown), "score": score}


def _texts_of(run: Run, ids: Iterable[str], index: PassageIndex) -> dict[str, dict[str, str]]:
    """The passages of a run as the index has them."""
    wanted = {passage_id for row_id in ids for passage_id, _ in run.get(row_id, [])}
    rows: list[int] = []
    names = index.passages.select_columns(["id"])
    for number, block in enumerate(names.iter(BLOCK)):
        rows += [number * BLOCK + row for row, name in enumerate(block["id"]) if name in wanted]
    if not rows:
        raise ValueError(
            f"{index.folder}: expected the passages of the run, found none of them, such as "
            f'"{min(wanted)}". Give the index of the same passages, or leave it out.'
        )
    found = {passage["id"]: passage for passage in index.passages_at(np.array(rows))}
    if len(found) < len(wanted):
        example = min(wanted - found.keys())
        warnings.warn(
            f"{len(wanted) - len(found):,} of {len(wanted):,} passages of the run are not in "
            f'{index.folder}, such as "{example}": they hold no answer.',
            stacklevel=3,
        )
    return found
