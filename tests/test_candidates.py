"""Candidates of DPR's JSON."""

import json

import pytest

from rag_finetune.data.candidates import Candidate, load_candidates
from rag_finetune.data.qa import load_questions


def write(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


ROW = {
    "question": "Who?",
    "answers": ["Ada"],
    "positive_ctxs": [{"title": "Harbour", "text": "Ada built it.", "cross_encoder_score": 7}],
    "negative_ctxs": [{"title": "", "text": "Not read."}],
    "hard_negative_ctxs": [
        {"title": "Bridge", "text": "Ben built it.", "passage_id": 4, "score": 3.5},
        {"text": "Cora slept.", "psg_id": "b", "cross_encoder_score": -1.5},
        {"title": "Bridge", "text": "Ben built it.", "passage_id": 9},
    ],
}


def test_positives_and_hard_negatives_are_read_each_once(tmp_path):
    path = write(tmp_path / "dpr.json", [ROW, {**ROW, "hard_negative_ctxs": []}])
    first, second = load_candidates(path)
    assert first.positives == [Candidate("Harbour", "Ada built it.", None, 7.0)]
    assert first.negatives == [
        Candidate("Bridge", "Ben built it.", "4"),
        Candidate("", "Cora slept.", "b", -1.5),
    ]
    assert second.negatives == []
    assert len(load_questions(path)) == 2


def test_a_file_without_candidates_has_an_empty_entry_for_each_question(tmp_path):
    path = write(tmp_path / "own.json", [{"question": "Who?", "answers": ["Ada"]}])
    [only] = load_candidates(path)
    assert only.positives == only.negatives == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hard_negative_ctxs": "x"}, r'dpr.json:1: "hard_negative_ctxs" must be a list'),
        ({"hard_negative_ctxs": [{"title": "x"}]}, r'hard_negative_ctxs\[0\]: expected the key "t'),
        (
            {"positive_ctxs": [{"text": "x", "cross_encoder_score": "7"}]},
            r'positive_ctxs\[0\]: "cross_encoder_score" must be a number, found the string "7"',
        ),
    ],
)
def test_a_malformed_candidate_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_candidates(write(tmp_path / "dpr.json", [{**ROW, **change}]))
