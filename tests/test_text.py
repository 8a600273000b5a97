import math
import os
import subprocess
import sys

import pytest

from rag_finetune.metrics.text import (
    F1,
    Bleu,
    ExactMatch,
    Rouge,
    exact_match_score,
    f1_score,
    load_text_metrics,
    normalize_answer,
)

# prediction, gold answers, exact match, F1: each worked by hand from SQuAD's definition
SQUAD_CASES = [
    ("Paris", ["Paris"], 1, 1),
    ("paris.", ["Paris"], 1, 1),
    ("The Eiffel  Tower!", ["an eiffel tower"], 1, 1),
    ("Paris", ["London", "Paris"], 1, 1),
    ("Paris", ["London"], 0, 0),
    ("New York City", ["New York"], 0, 4 / 5),  # precision 2/3, recall 1
    ("York", ["New York City"], 0, 1 / 2),  # precision 1, recall 1/3
    ("big big dog", ["big dog dog"], 0, 2 / 3),  # common: big, dog
    ("in 1973", ["October 1973", "in 1973 or so"], 0, 2 / 3),  # second: 1 and 1/2
    ("U.S.", ["US"], 1, 1),
    ("well-known", ["well known"], 0, 0),  # the hyphen goes without leaving a space
    ("theatre", ["atre"], 0, 0),  # articles are whole words
    ("", ["Paris"], 0, 0),
    ("the", ["a"], 1, 1),  # both empty once normalised
    ("the", ["Paris"], 0, 0),
    ("Köln", ["köln"], 1, 1),
]
RAGGED = {
    "predictions": ["a b c d", "w x y z"],
    "references": [["a b c d e f g h i"], ["w x y z"] * 2],
}


@pytest.mark.parametrize(("prediction", "answers", "exact_match", "f1"), SQUAD_CASES)
def test_exact_match_and_f1_follow_squad(prediction, answers, exact_match, f1):
    assert exact_match_score(prediction, answers) == exact_match
    assert f1_score(prediction, answers) == pytest.approx(f1)


def test_normalisation_drops_case_punctuation_articles_and_spaces():
    assert normalize_answer(" The  quick, (brown) fox\tand an Owl. ") == "quick brown fox and owl"


def test_metrics_are_means_over_the_cases():
    predictions, references, exact_matches, f1s = map(list, zip(*SQUAD_CASES, strict=True))
    batch = {"predictions": predictions, "references": references}
    assert ExactMatch().compute(**batch) == {"exact_match": pytest.approx(sum(exact_matches) / 16)}
    assert F1().compute(**batch) == {"f1": pytest.approx(sum(f1s) / 16)}


def test_bleu_is_the_geometric_mean_of_four_precisions():
    bleu = Bleu().compute(
        predictions=["the cat sat on the mat"], references=[["the cat sat on a mat"]]
    )
    precisions = 5 / 6 * 3 / 5 * 2 / 4 * 1 / 3
    assert bleu == {"bleu": pytest.approx(100 * precisions**0.25)}


def test_bleu_does_not_count_a_missing_reference_as_an_empty_one():
    # All precisions are 1; 8 predicted tokens against 9 + 4 reference tokens: exp(1 - 13 / 8).
    assert Bleu().compute(**RAGGED) == {"bleu": pytest.approx(100 * math.exp(-5 / 8))}


def test_rouge_takes_the_best_reference():
    rouge = Rouge().compute(predictions=["the cat sat"], references=[["dog", "The cat sat down."]])
    # 3 of 3 and 3 of 4 words; 2 of 2 and 2 of 3 pairs; longest common subsequence of 3 words
    assert rouge == {
        "rouge1": pytest.approx(6 / 7),
        "rouge2": pytest.approx(4 / 5),
        "rougeL": pytest.approx(6 / 7),
    }


def test_combined_metrics_can_be_computed_again():
    metrics = load_text_metrics()
    first = metrics.compute(predictions=["Paris"], references=[["Paris"]])
    assert list(first) == ["exact_match", "f1", "bleu", "rouge1", "rouge2", "rougeL"]
    assert first["exact_match"] == first["f1"] == first["rouge1"] == 1
    second = metrics.compute(predictions=["Paris"], references=[["London", "Rome"]])
    assert second["exact_match"] == second["f1"] == second["rougeL"] == 0


def test_rows_and_batches_can_be_added_before_computing():
    metrics = load_text_metrics()
    metrics.add(prediction="Paris", reference=["Paris"])
    metrics.add_batch(predictions=["Rome", "Bonn"], references=[["Rome"], ["Köln"]])
    assert metrics.compute()["exact_match"] == pytest.approx(2 / 3)


def test_single_metric_takes_one_row():
    metric = ExactMatch()
    metric.add(prediction="Paris", reference=["Paris"])
    assert metric.compute() == {"exact_match": 1}


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "predictions must hold at least one answer, found none"),
        (None, None, "predictions must hold at least one answer, found none"),
        (["a"], None, "expected predictions and references, found only one"),
        (["a", "b"], [["a"]], "must be of one length, found 2 and 1"),
        (["a"], ["a"], r"references\[0\] must be a non-empty list of strings, found 'a'"),
        (["a", "b"], [["a"], []], r"references\[1\] must be a non-empty list of strings, found \["),
        (["a", 5], [["a"], ["5"]], r"predictions\[1\] must be a string, found 5"),
    ],
)
def test_bad_rows_are_refused_and_leave_nothing_behind(predictions, references, message):
    metrics = load_text_metrics()
    with pytest.raises(ValueError, match=message):
        metrics.compute(predictions=predictions, references=references)
    good = metrics.compute(predictions=["Paris"], references=[["Paris"]])
    assert good["exact_match"] == 1


def test_scores_without_gold_answers_are_an_error():
    with pytest.raises(ValueError, match="answers must be a non-empty list of strings"):
        f1_score("Paris", [])
    with pytest.raises(ValueError, match="answers must be a non-empty list of strings"):
        exact_match_score("Paris", "Paris")


def test_two_processes_compute_at_once_offline_without_a_cache(tmp_path):
    not_a_folder = tmp_path / "file"
    not_a_folder.touch()
    code = (
        "from rag_finetune.metrics.text import load_text_metrics\n"
        "batch = {'predictions': ['Paris'], 'references': [['Paris', 'Rome']]}\n"
        "print(load_text_metrics().compute(**batch)['f1'])"
    )
    cache = {"HF_HOME": str(not_a_folder / "cache"), "HF_HUB_OFFLINE": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | cache,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for worker in workers:
        output, errors = worker.communicate(timeout=120)
        assert (worker.returncode, output) == (0, "1.0\n"), errors
        assert "tokenizer" not in errors
    assert list(tmp_path.iterdir()) == [not_a_folder]
