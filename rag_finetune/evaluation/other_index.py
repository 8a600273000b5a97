"""The same model over another index: do its answers follow what the passages say?"""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from rag_finetune.evaluation.evaluate import Evaluation, evaluate_rag
from rag_finetune.metrics.text import exact_match_score


def evaluate_other_index(
    rag: Any, questions: Dataset, former: Mapping[str, Mapping[str, Any]], **options: Any
) -> Evaluation:
    """Answer questions from another edition of the passages, and see whose answers come.

    Args:
        rag: what `load_rag` gave, with the other index.
        questions: as for `evaluate_rag`, with the answers of the other edition.
        former: question and answers of the first edition, by the id of the question.
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
    then = sum(exact_match_score(row["prediction"], former[row["id"]]["answers"]) for row in rows)
    evaluation.metrics |= {
        "n_changed": count,
        "changed_exact_match": now / count,
        "former_exact_match": then / count,
    }
    return evaluation


def changed_ids(questions: Dataset, former: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Ids of the questions that both editions ask, and have answers to, none of which match.

    Args:
        questions: columns id, question, answers.
        former: question and answers of the first edition, by the id of the question. An id alone
            may be a row number, so the question must be the same.

    Raises:
        ValueError: there is none.
    """
    changed = set()
    for row in questions.select_columns(["id", "question", "answers"]):
        before = former.get(row["id"])
        if before and before["question"] == row["question"] and before["answers"]:
            matches = [exact_match_score(answer, before["answers"]) for answer in row["answers"]]
            if matches and not any(matches):
                changed.add(row["id"])
    if not changed:
        raise ValueError(
            f"None of the {len(questions):,} questions for the other index has the id and the "
            "text of one for the first and another answer: nothing would show which index is "
            "followed."
        )
    return changed
