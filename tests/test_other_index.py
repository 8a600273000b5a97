import pytest
import tiny_rag
from datasets import Dataset
from trained_rag import trained_rag

from rag_finetune.evaluation.other_index import changed_ids, evaluate_other_index


def rows(*answers):
    """Questions 0, 1, … with these answers."""
    return Dataset.from_list(
        [
            {"id": str(number), "question": f"what is {number} ?", "answers": found}
            for number, found in enumerate(answers)
        ]
    )


def test_changed_are_the_questions_whose_answers_all_differ():
    now = rows(["7.1"], ["the Red"], ["new"], [], ["only here"])
    before = {"0": ["7.2", "7.3"], "1": ["blue", "red"], "2": [], "3": ["x"]}
    former = {id: {"question": f"what is {id} ?", "answers": old} for id, old in before.items()}
    assert changed_ids(now, former) == {"0"}


def test_a_row_number_alone_is_no_question_asked_again():
    former = {str(n): {"question": f"what is {n} ?", "answers": ["old"]} for n in range(2)}
    former["1"]["question"] = "another question ?"
    assert changed_ids(rows(["new"], ["new"]), former) == {"0"}


def test_where_nothing_changed_nothing_can_be_shown():
    with pytest.raises(ValueError, match="None of the 1 questions for the other index has the id"):
        changed_ids(rows(["red"]), {"0": {"question": "what is 0 ?", "answers": ["Red"]}})


def test_both_figures_are_taken_over_the_changed_questions_alone():
    rag = trained_rag("bart", "rag_sequence")
    facts = tiny_rag.facts()[:6]
    questions = Dataset.from_list(
        [
            {"id": f["id"], "question": f["question"], "answers": [f["answer"]], "positive_ids": []}
            for f in facts
        ]
    )
    # Of four questions the first edition said something else, of one the same, one it has not.
    former = {f["id"]: {**f, "answers": ["something else"]} for f in facts[:4]}
    former[facts[4]["id"]] = {**facts[4], "answers": [facts[4]["answer"]]}
    metrics = evaluate_other_index(rag, questions, former, max_new_tokens=8).metrics
    assert metrics["n_examples"] == 6 and metrics["n_changed"] == 4
    assert metrics["changed_exact_match"] >= 0.75 and metrics["former_exact_match"] == 0.0
    wrong = questions.map(lambda row: {"answers": ["something else"]})
    former = {fact["id"]: {**fact, "answers": [fact["answer"]]} for fact in facts}
    swapped = evaluate_other_index(rag, wrong, former, max_new_tokens=8).metrics
    assert swapped["changed_exact_match"] == 0.0 and swapped["former_exact_match"] >= 0.75
