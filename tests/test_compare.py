import json

import pytest
from light_imports import assert_imports_none_of

from rag_finetune.evaluation.compare import (
    ROWS,
    check_inputs,
    comparison_table,
    examples,
    fill,
    missing_rows,
    save_inputs,
    snippet,
    swap_report,
)
from rag_finetune.evaluation.evaluate import Evaluation
from rag_finetune.evaluation.report import save_evaluation

PASSAGES = [
    {"id": "1", "title": "Krypton", "text": "Krypton melts at −157 °C .", "posterior": 0.9512},
    {"id": "2", "title": "Xenon", "text": "Another gas .", "posterior": 0.0488},
]


def prediction(number):
    return {
        "id": str(number),
        "question": f"question {number} ?",
        "answers": ["one", "two", "three", "four"],
        "prediction": "−157 °C",
        "passages": PASSAGES,
    }


def result(exact_match, **more):
    metrics = {"exact_match": exact_match, "f1": 0.5, **more, "n_examples": 20}
    return Evaluation(metrics, [prediction(number) for number in range(20)])


def test_importing_it_imports_no_torch():
    assert_imports_none_of({"torch", "transformers", "datasets"}, "import rag_finetune.cli.compare")


def test_the_table_has_the_sets_side_by_side_and_a_dash_for_what_is_unknown(tmp_path):
    more = {"recall@1": 0.25, "recall@5": 1.0}
    save_evaluation(result(0.044), tmp_path / "test/most_frequent")
    save_evaluation(result(0.925, **more), tmp_path / "test/fine_tuned")
    save_evaluation(result(0.0), tmp_path / "unseen/most_frequent")
    save_evaluation(result(1.0, **more), tmp_path / "unseen/fine_tuned")
    table = comparison_table(tmp_path, ["test", "unseen"], ["most_frequent", "fine_tuned"])
    assert table.splitlines() == [
        "per cent                         test: 20 questions      unseen: 20 questions",
        "                            exact         recall      exact         recall",
        "                            match    F1    @1    @5   match    F1    @1    @5",
        "most frequent answer          4.4  50.0     –     –     0.0  50.0     –     –",
        "fine-tuned RAG               92.5  50.0  25.0 100.0   100.0  50.0  25.0 100.0",
    ]


def test_without_gold_passages_the_recall_of_the_answers_is_shown_under_its_own_name(tmp_path):
    answers = {"answer_recall@1": 0.5, "answer_recall@5": 0.75}
    save_evaluation(result(0.044), tmp_path / "mine/most_frequent")
    save_evaluation(result(0.925, **answers), tmp_path / "mine/fine_tuned")
    save_evaluation(result(0.0), tmp_path / "gold/most_frequent")
    gold = {"recall@1": 0.25, "recall@5": 1.0}
    save_evaluation(result(1.0, **answers, **gold), tmp_path / "gold/fine_tuned")
    table = comparison_table(tmp_path, ["mine", "gold"], ["most_frequent", "fine_tuned"])
    assert table.splitlines()[1:] == [
        "                            exact      answ. recall   exact         recall",
        "                            match    F1    @1    @5   match    F1    @1    @5",
        "most frequent answer          4.4  50.0     –     –     0.0  50.0     –     –",
        "fine-tuned RAG               92.5  50.0  50.0  75.0   100.0  50.0  25.0 100.0",
    ]


def test_a_long_name_of_a_set_has_room(tmp_path):
    name = "questions_about_elements"
    save_evaluation(result(0.5), tmp_path / name / "fine_tuned")
    lines = comparison_table(tmp_path, [name], ["fine_tuned"]).splitlines()
    assert lines[0].endswith(f"  {name}: 20 questions")
    assert {len(line) for line in lines[2:]} == {len(lines[0])}


def test_the_other_index_is_told_in_words_with_one_question_asked_of_both(tmp_path):
    figures = {"n_changed": 1844, "changed_exact_match": 0.875, "former_exact_match": 0.02}
    changed = {"answers": ["80 °C"], "prediction": "80 °C"}
    rows = [prediction(0), {**prediction(1), **changed, "question": "another question ?"}]
    other = Evaluation(figures, [*rows, {**prediction(3), **changed}])
    save_evaluation(result(0.5), tmp_path / "test/fine_tuned")
    save_evaluation(other, tmp_path / "false/other_index")
    assert swap_report(tmp_path, ["test"], "false").splitlines() == [
        "The other index, with no training: of 1,844 questions of false that it answers "
        "differently,",
        "87.5 % get its answer, 2.0 % that of the first index.",
        "  question 3 ?  −157 °C → 80 °C",
    ]


def test_every_row_is_evaluated_once_and_kept(tmp_path):
    asked = []

    def evaluator(row):
        def evaluate(name):
            asked.append((row, name))
            if len(asked) == 4:
                raise KeyboardInterrupt
            return result(0.5)

        return evaluate

    evaluators = {row: evaluator(row) for row in ("most_frequent", "fine_tuned")}
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, ["a", "b"], evaluators)
    assert missing_rows(tmp_path, ["a", "b"], list(evaluators)) == [("fine_tuned", "b")]
    fill(tmp_path, ["a", "b"], evaluators)
    fill(tmp_path, ["a", "b"], evaluators)
    assert asked[3:] == [("fine_tuned", "b")] * 2


def test_five_questions_are_spread_over_the_set_each_with_its_evidence(tmp_path):
    save_evaluation(result(0.5), tmp_path / "test/fine_tuned")
    blocks = examples(tmp_path, "test").split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        f"  question {number} ?" for number in (0, 4, 8, 12, 16)
    ]
    assert blocks[0].splitlines()[1:] == [
        "    answer: −157 °C   (right: one | two | three)",
        "    0.95  Krypton: Krypton melts at −157 °C .",
        "    0.05  Xenon: Another gas .",
    ]


def test_of_fewer_questions_each_is_shown_once(tmp_path):
    save_evaluation(Evaluation({}, [prediction(0), prediction(1)]), tmp_path / "test/fine_tuned")
    assert len(examples(tmp_path, "test").split("\n\n")) == 2


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("GHI", "…fghij…"),  # whatever its case
        ("abc", "abcde…"),
        ("klm", "…ijklm"),
        ("xyz", "abcde…"),
        ("", "abcde…"),
    ],
)
def test_a_snippet_is_what_stands_around_the_answer(answer, shown):
    assert snippet("abcdefghijklm", answer, 5) == shown


def test_a_short_passage_is_shown_whole():
    assert snippet("ab\n  cd", "cd", 5) == "ab cd"


def test_a_comparison_of_other_inputs_is_refused_by_what_differs(tmp_path):
    check_inputs(tmp_path / "c", {"--index": None, "--n_docs": 5})
    assert not (tmp_path / "c").exists()
    save_inputs(tmp_path / "c", {"--index": None, "--n_docs": 5})
    check_inputs(tmp_path / "c", {"--index": None, "--n_docs": 5})
    with pytest.raises(ValueError, match=r"of other inputs; --n_docs differ\. .* --overwrite"):
        check_inputs(tmp_path / "c", {"--index": None, "--n_docs": 4})
    assert json.loads((tmp_path / "c/inputs.json").read_text())["--n_docs"] == 5


def test_every_row_has_a_label():
    assert list(ROWS) == ["most_frequent", "closed_book", "bm25", "starting", "fine_tuned"]
    assert len(set(ROWS.values())) == len(ROWS)
