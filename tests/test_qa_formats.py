"""Which format a file of questions has."""

import json

import pytest

from rag_finetune.data.qa import load_questions
from rag_finetune.data.qa_formats import QA_FORMATS, detect_format, iter_contexts


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", '[{"question": "q?", "answers": ["a"]}]', "json"),
        ("a.txt", '{"question": "q?", "answers": ["a"]}', "json"),
        ("a.json", '{"question": "q?", "answers": [], "hard_negative_ctxs": []}', "dpr"),
        ("a.json", '[\n\n{"question": "q?", "positive_ctxs": []}]', "dpr"),
        ("a.jsonl", '\n{"golden_answers": []}\n', "flashrag"),
        ("a.json", '{"version": 1, "data": []}', "squad"),
        ("a.json", '{\n"data": [\n]\n}', "squad"),
        ("a.json", '{"question": "q?", "data": []}', "json"),
        ("a.json", "", "json"),
        ("a.json", "[]", "json"),
        ("a.json", "[5]", "json"),
        ("a.json", "nothing", "json"),
        ("dev.source", "", "lines"),
        ("dev.TARGET", "", "lines"),
        ("a.csv", "q,a", "dpr_table"),
        ("a.tsv", "q\ta", "dpr_table"),
        ("a.tsv", "query-id\tcorpus-id\tscore\n", "beir"),
    ],
)
def test_name_and_first_row_tell_the_format(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_text(text)
    assert detect_format(path) == expected


def test_an_unknown_format_lists_the_choices_and_the_nearest(tmp_path):
    path = tmp_path / "qa.json"
    path.write_text('[{"question": "q?", "answer": "a"}]')
    message = 'qa_format must be one of "json", .*"lines", found "nqopen". Did you mean "nq_open"?'
    for read in (load_questions, lambda *a, **k: list(iter_contexts(*a, **k))):
        with pytest.raises(ValueError, match=message):
            read(path, qa_format="nqopen")
    assert len(QA_FORMATS) == len(set(QA_FORMATS)) == 8


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            {"question": "q?", "answers": ["a"], "positive_ctxs": []},
            {"question": "r?", "answer": "b"},
        ),
        ({"question": "q?", "golden_answers": ["a"]}, {"question": "r?", "answers": ["b"]}),
    ],
)
def test_a_row_of_another_format_than_the_first_is_an_error(tmp_path, first, second):
    path = tmp_path / "qa.jsonl"
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    with pytest.raises(ValueError, match=r"qa\.jsonl:2: expected the key "):
        load_questions(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.json: expected a file, found nothing there"):
        load_questions(tmp_path / "no.json")
    with pytest.raises(IsADirectoryError, match="expected a file, found a folder"):
        load_questions(tmp_path)
