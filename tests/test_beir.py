"""What is written as a BEIR folder is read as it was."""

import json

import pytest
import tiny_rag

from rag_finetune.data.beir import Query, write_beir
from rag_finetune.data.passages import load_passages
from rag_finetune.data.qa import load_questions

PASSAGES = [
    {"id": "a b", "document_id": "a b", "title": "", "text": 'A "quoted"\ttab.'},
    {"id": '"q"', "document_id": '"q"', "title": "Ä", "text": "Two\nlines."},
    {"id": "c#2", "document_id": "c", "title": "T", "text": "Last."},
]
SPLITS = {
    "dev": [Query("x", "Who?\tYou?", {'"q"': 1, "a b": 2.0})],
    "test": [Query('"y', "What?", {"c#2": 1}), Query("z", "Unjudged?", {})],
}


def test_a_folder_that_was_written_is_read_as_it_was(tmp_path):
    write_beir(tmp_path / "new/beir", PASSAGES, SPLITS)
    folder = tmp_path / "new/beir"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {"corpus.jsonl", "queries.jsonl", "qrels/dev.tsv", "qrels/test.tsv"}
    found = load_passages(folder, 0).to_list()
    keys = ("id", "title", "text")
    assert [[row[key] for key in keys] for row in found] == [
        [row[key] for key in keys] for row in PASSAGES
    ]
    [dev] = load_questions(folder / "qrels/dev.tsv", need_answers=False)
    assert (dev["id"], dev["question"]) == ("x", "Who?\tYou?")
    assert dict(zip(dev["positive_ids"], dev["positive_grades"], strict=True)) == {
        '"q"': 1.0,
        "a b": 2.0,
    }
    [test] = load_questions(folder / "qrels/test.tsv", need_answers=False)
    assert (test["id"], test["positive_ids"]) == ('"y', ["c#2"])
    queries = [json.loads(line) for line in (folder / "queries.jsonl").open()]
    assert [row["_id"] for row in queries] == ["x", '"y', "z"]


def test_the_files_are_as_beir_has_them(tmp_path):
    write_beir(tmp_path / "beir", tiny_rag.passages(), {"test": [Query("q", "Who?", {"1": 1.0})]})
    lines = (tmp_path / "beir/qrels/test.tsv").read_text().splitlines()
    assert lines == ["query-id\tcorpus-id\tscore", "q\t1\t1"]
    rows = (tmp_path / "beir/corpus.jsonl").read_text().splitlines()
    assert list(json.loads(rows[0])) == ["_id", "title", "text"]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": [Query("q", "?", {"nowhere": 1})]}, '"nowhere" of the question "q" is not among'),
        ({"test": [Query("q", "?", {"c#2": 0.5})]}, 'whole numbers above 0, found 0.5 for "c#2"'),
        ({"test": [Query("q", "?", {})]}, "test: none of the 1 questions has a gold passage"),
        (
            {"test": [Query(" q", "?", {"c#2": 1})]},
            "no white space around them .* in the questions",
        ),
        (
            {split: [Query("q", "?", {"c#2": 1})] for split in ("dev", "test")},
            'the id "q" stands for two questions',
        ),
    ],
)
def test_what_a_folder_cannot_hold_is_refused_and_nothing_is_left(tmp_path, splits, message):
    with pytest.raises(ValueError, match=message):
        write_beir(tmp_path / "beir", PASSAGES, splits)
    assert not list(tmp_path.iterdir())


def test_an_id_of_a_passage_with_a_tab_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"found 'a\\tb'. Rename it in the passages"):
        write_beir(tmp_path / "beir", [PASSAGES[0] | {"id": "a\tb"}, *PASSAGES], SPLITS)
