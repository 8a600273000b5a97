"""The same model over another index: do its answers follow what the passages say?"""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from rag_finetune.evaluation.evaluate import Evaluation, evaluate_rag
from rag_finetune.metrics.text import exact_match_score


def evaluate_other_index(
    rag: Any, questions: Dataset, former: Mapping[str, Sequence[str]], **options: Any
) -> Evaluation:
    """Answer questions from another edition of the passages, and see whose answers come.

    Args:
        rag: what `load_rag` gave, with the other index.
        questions: as for `evaluate_rag`, with the answers of the other edition.
        former: the answers of the first edition, by the id of the question.
        **options: what `evaluate_rag` takes.

    Returns:
        What `evaluate_rag` gives. Among the metrics, over the questions that the two editions
        answer differently: n_changed, how many they are; changed_exact_match against the answers
        of the other edition; former_exact_match against those of the first.

    Raises:
        ValueError: no question has another answer than before; or as for `evaluate_rag`.
    """
    changed = changed_ids(questions, former)
    evaluation = evaluate_rag(rag, questions, **options)
    rows = [row for row in evaluation.predictions if row["id"] in changed]
    count = len(rows)
    now = sum(exact_match_score(row["prediction"], row["answers"]) for row in rows)
    then = sum(exact_match_score(row["prediction"], former[row["id"]]) for row in rows)
    evaluation.metrics |= {
        "n_changed": count,
        "changed_exact_match": now / count,
        "former_exact_match": then / count,
    }
    return evaluation


def changed_ids(questions: Dataset, former: Mapping[str, Sequence[str]]) -> set[str]:
    """Ids of the questions that have answers in both editions, none of which match.

    Args:
        questions: columns id, answers.
        former: the answers of the first edition, by the id of the question.

    Raises:
        ValueError: there is none.
    """
    changed = set()
    for row in questions.select_columns(["id", "answers"]):
        before = former.get(row["id"])
        if before and row["answers"]:
            if not any(exact_match_score(answer, before) for answer in row["answers"]):
                changed.add(row["id"])
    if not changed:
        raise ValueError(
            f"None of the {len(questions):,} questions for the other index has the id of one for "
            "the first and another answer: nothing would show which index is followed."
        )
    return changed
