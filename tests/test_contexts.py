import json

import pytest
import tiny_rag

from rag_finetune.data.contexts import iter_context_passages
from rag_finetune.data.qa import load_questions

ROWS = [
    {"question": "a?", "answer": "a", "context": "one two three four five", "title": "t"},
    {"question": "b?", "answer": "b", "context": "one two three four five", "title": "t"},
    {"question": "c?", "answer": "c", "context": "six"},
]


def write(path, rows):
    path.write_text(json.dumps(rows))
    return path


def test_each_context_is_cut_once_and_questions_know_it(tmp_path):
    path = write(tmp_path / "q.json", ROWS)
    passages = list(iter_context_passages(path, 3, overlap=1))
    assert [passage["text"] for passage in passages] == ["one two three", "three four five", "six"]
    long, short = passages[0]["document_id"], passages[2]["document_id"]
    assert [passage["id"] for passage in passages] == [f"{long}#1", f"{long}#2", short]
    assert load_questions(path)["positive_ids"][:] == [[long], [long], [short]]


def test_an_id_that_a_piece_has_too_is_refused(tmp_path):
    ctxs = [
        {"title": "", "text": "one two three four", "passage_id": "a"},
        {"title": "", "text": "five", "passage_id": "a#1"},
    ]
    rows = [{"question": "q?", "answers": ["x"], "positive_ctxs": ctxs}]
    path = write(tmp_path / "dpr.json", rows)
    assert len(list(iter_context_passages(path, 0))) == 2
    with pytest.raises(ValueError, match=r'"a#1" comes from the contexts "a" and "a#1"'):
        list(iter_context_passages(path, 2))


def test_numbers_and_paths_are_checked_before_the_first_passage(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        iter_context_passages(tmp_path / "none.json")
    path = write(tmp_path / "q.json", ROWS)
    with pytest.raises(ValueError, match="overlap"):
        iter_context_passages(path, 3, overlap=3, tokenizer=tiny_rag.word_tokenizer("bert"))
