"""`rag-finetune export-beir`, run in this process."""

import json

import pytest
from tiny_job import error_of, ok, usage_error_of

from rag_finetune.data.passages import load_passages
from rag_finetune.data.qa import load_questions


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    words = " ".join(f"w{n}" for n in range(9))
    rows = [{"id": "long", "title": "T", "text": words}, {"id": "short", "text": "Ada lived."}]
    (folder / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, ids in (("train", ["long"]), ("test", ["short", "long"])):
        questions = [
            {"question": f"{name} {i}?", "answers": ["w1"], "positive_ids": [i]} for i in ids
        ]
        (folder / f"{name}.json").write_text(json.dumps(questions))
    return folder


def words_of(inputs, output, *more):
    return ["export-beir", "--passages", inputs / "passages.jsonl", "--output_dir", output, *more]


def test_splits_become_files_and_ids_that_clash_are_told_apart(inputs, tmp_path):
    files = ("--train_file", inputs / "train.json", "--eval_file", inputs / "test.json")
    done = ok(*words_of(inputs, tmp_path / "beir", *files))
    assert "2 passages; 1 questions in train, 2 questions in test." in done.out
    assert "Some ids stand in two files, so each has the name of its split before it." in done.out
    passages = load_passages(inputs / "passages.jsonl", 0)
    assert load_passages(tmp_path / "beir", 0).to_list() == passages.to_list()
    for split, ids in (("train", ["train-0"]), ("test", ["test-0", "test-1"])):
        found = load_questions(tmp_path / f"beir/qrels/{split}.tsv", need_answers=False)
        given = load_questions(inputs / f"{split}.json")
        assert found["id"][:] == ids
        for column in ("question", "positive_ids"):
            assert found[column][:] == given[column][:], column


def test_a_gold_document_that_was_cut_is_judged_piece_by_piece(inputs, tmp_path):
    index = tmp_path / "index"
    cut = ["--passage_words", 5]
    ok("index", "--passages", inputs / "passages.jsonl", *cut, "--lexical", "bm25", "--output_dir",
       index)  # fmt: skip
    given = ["--validation_file", inputs / "test.json"]
    assert "before it" not in ok(*words_of(inputs, tmp_path / "files", *cut, *given)).out
    ok("export-beir", "--index", index, *given, "--output_dir", tmp_path / "index_beir")
    tables = [
        (tmp_path / name / "qrels/dev.tsv").read_text().splitlines()[1:]
        for name in ("files", "index_beir")
    ]
    assert tables[0] == ["0\tshort\t1", "1\tlong#1\t1", "1\tlong#2\t1"]
    assert tables[0] == tables[1]


def test_a_folder_that_was_exported_is_exported_alike(inputs, tmp_path):
    ok(*words_of(inputs, tmp_path / "one", "--eval_file", inputs / "test.json"))
    qrels = tmp_path / "one/qrels/test.tsv"
    graded = qrels.read_text().replace("long\t1", "long\t3")
    qrels.write_text(graded)
    again = ["--passages", tmp_path / "one", "--eval_file", qrels]
    ok("export-beir", *again, "--output_dir", tmp_path / "two")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()


def test_questions_without_a_gold_passage_are_counted(inputs, tmp_path):
    rows = json.loads((inputs / "test.json").read_text())
    (inputs / "test.json").write_text(json.dumps([*rows, {"question": "Who?", "answers": ["a"]}]))
    with pytest.warns(UserWarning, match='1 of 3 questions have no gold .* with the id "2": they'):
        ok(*words_of(inputs, tmp_path / "beir", "--eval_file", inputs / "test.json"))
    assert len((tmp_path / "beir/queries.jsonl").read_text().splitlines()) == 3
    assert len((tmp_path / "beir/qrels/test.tsv").read_text().splitlines()) == 3


def test_wrong_usage_is_told(inputs, tmp_path):
    words = words_of(inputs, tmp_path / "beir")
    assert "give one of --train_file" in usage_error_of(*words)
    full = words_of(inputs, inputs, "--eval_file", inputs / "test.json")
    assert "already exists" in error_of(*full)
    assert "nowhere.json" in error_of(*words, "--eval_file", "nowhere.json")
