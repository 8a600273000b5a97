"""Rows of JSON files and the lines that they begin on."""

import pytest

from rag_finetune.data.json_rows import list_keys, read_objects


def read(folder, text):
    path = folder / "rows.json"
    path.write_text(text)
    return list(read_objects(path))


def test_each_value_of_a_list_comes_with_its_line(tmp_path):
    assert read(tmp_path, '[\n  {"a": 1},\n\n  {"a":\n 2}\n]') == [(2, {"a": 1}), (4, {"a": 2})]


def test_each_line_of_jsonl_comes_with_its_number(tmp_path):
    assert read(tmp_path, '{"a": 1}\n\n{"a": 2}\n') == [(1, {"a": 1}), (3, {"a": 2})]


def test_a_syntax_error_is_named_with_its_line(tmp_path):
    with pytest.raises(ValueError, match=r"rows\.json:3: .*syntax error"):
        read(tmp_path, '[\n{"a": 1},\n{"a" 2}\n]')


def test_one_object_over_several_lines_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a list of objects or one object a line"):
        read(tmp_path, '{\n"data": []\n}')


def test_keys_are_quoted_and_cut():
    assert list_keys(["a", "b" * 50]) == f'"a", "{"b" * 40}"'
