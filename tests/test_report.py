import json

import pytest

from rag_finetune.evaluation.evaluate import Evaluation
from rag_finetune.evaluation.report import main, metrics_table, save_evaluation

METRICS = {
    "exact_match": 0.5,
    "f1": 2 / 3,
    "bleu": 12.34567,
    "recall@20": 1.0,
    "doc_entropy": 0.98765,
    "loss": 3.25,
    "n_examples": 1234,
}
PASSAGE = {"id": "1", "title": "Köln", "text": 'a "b"\nc', "score": 1.5, "posterior": 1.0}
PREDICTIONS = [
    {
        "id": "a",
        "question": "wo?",
        "answers": ["Köln", "東京"],
        "prediction": "Köln",
        "score": -0.5,
    },
    {"id": "b", "question": "x\u2028y", "answers": ["z"], "prediction": "", "score": -1e9},
]
EVALUATION = Evaluation(METRICS, [row | {"passages": [PASSAGE]} for row in PREDICTIONS])


def test_files_hold_metrics_and_one_prediction_a_line(tmp_path):
    folder = tmp_path / "deep" / "folder"
    save_evaluation(EVALUATION, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "predictions.jsonl"]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == METRICS and list(metrics) == list(METRICS)
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == EVALUATION.predictions
    assert lines[-1] == "" and "東京" in lines[0]


def test_saving_again_replaces_both_files(tmp_path):
    save_evaluation(EVALUATION, tmp_path)
    save_evaluation(Evaluation({"f1": 1.0}, []), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")) == {"f1": 1.0}
    assert (tmp_path / "predictions.jsonl").read_text(encoding="utf-8") == ""


def test_table_shows_fractions_in_per_cent_and_the_rest_as_it_is():
    assert metrics_table(METRICS).split("\n") == [
        "exact_match      50.0 %",
        "f1               66.7 %",
        "bleu           12.346",
        "recall@20       100.0 %",
        "doc_entropy     0.988",
        "loss            3.250",
        "n_examples      1,234",
    ]


def test_table_of_a_saved_folder_is_printed(tmp_path, capsys):
    save_evaluation(EVALUATION, tmp_path)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == metrics_table(METRICS) + "\n"


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_wrong_usage_is_code_two(arguments, capsys):
    assert main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_missing_metrics_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics.json: expected a file"):
        main([str(tmp_path)])
