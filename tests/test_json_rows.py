"""Rows of JSON files and the lines that they begin on."""

import json

import pytest

from rag_finetune.data import json_rows
from rag_finetune.data.json_rows import list_keys, parse_json, read_objects, read_placed_objects


def read(folder, text):
    path = folder / "rows.json"
    path.write_text(text)
    return list(read_objects(path))


def test_each_value_of_a_list_comes_with_its_line(tmp_path):
    assert read(tmp_path, '[\n  {"a": 1},\n\n  {"a":\n 2}\n]') == [(2, {"a": 1}), (4, {"a": 2})]


def test_rows_that_share_a_line_are_told_apart_by_number(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}, {"a": 2},\n{"a": 3}]')
    places = [place for place, _ in read_placed_objects(path)]
    assert places == [f"{path}:1", f"{path}:1 (row 2)", f"{path}:2"]


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


VALUES = [{"a": "x\u2028ä"}, [1, [2.5e3, -1]], "]", {}, [], None, True, 12345, {"b": {"c": [{}]}}]


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 0, 3])
def test_a_list_is_read_the_same_in_blocks_of_any_size(tmp_path, monkeypatch, block, indent):
    monkeypatch.setattr(json_rows, "BLOCK", block)
    text = "\n\n" + json.dumps(VALUES, indent=indent, ensure_ascii=False) + "\n \n"
    rows = read(tmp_path, text)
    assert [value for _, value in rows] == VALUES
    lines = text.split("\n")
    for line, value in rows:
        assert json.dumps(value, ensure_ascii=False)[0] in lines[line - 1]


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        '[\n{"a": 1},\n{"a" 2}\n]',
        '[{"a": 1},   {"a" 2}]',
        '[{"a": 1} {"a": 2}]',
        '[{"a": 1},\n\n{"a": 2}',
        '[\n{"a": 1}\n]\n\n  {}',
        '[{"a": 1},\n {"a": \n"un\nended"}]',
        "[\n1,\n tru]",
        "[\n1,\n",
        "[",
    ],
)
def test_a_fault_in_a_list_is_placed_where_the_standard_library_places_it(
    tmp_path, monkeypatch, text, block
):
    monkeypatch.setattr(json_rows, "BLOCK", block)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    place = rf"rows\.json:{expected.value.lineno}: .* column {expected.value.colno} \("
    with pytest.raises(ValueError, match=place):
        read(tmp_path, text)


def test_values_of_a_list_come_before_a_fault_behind_them(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "BLOCK", 1)
    path = tmp_path / "rows.json"
    path.write_text("[\n1,\n2,\nx]")
    rows = read_objects(path)
    assert [next(rows), next(rows)] == [(2, 1), (3, 2)]
    with pytest.raises(ValueError, match=r"rows\.json:4:"):
        next(rows)


def test_a_fault_is_told_without_reading_the_rest_of_a_list(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "BLOCK", 1)
    path = tmp_path / "rows.json"
    path.write_bytes(b'[\n{"a": 1},\n{"a" 2},\n{"a": 3},\n' + b"\xff not UTF-8\n]")
    with pytest.raises(ValueError, match=r"rows\.json:3: .* column 6 "):
        list(read_objects(path))


def test_a_fault_in_one_object_over_several_lines_is_named_with_its_line(tmp_path):
    with pytest.raises(
        ValueError, match=r"rows\.json:3: expected JSON, found a syntax error at col"
    ):
        read(tmp_path, '{\n"data": [\nx]\n}')


def test_a_list_nested_beyond_measure_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"rows\.json:2: .*Nested too deeply"):
        read(tmp_path, "[\n" + "[" * 200_000)


def test_only_one_whole_value_is_parsed():
    assert parse_json('{"a": 1}\n') == {"a": 1}
    assert parse_json('{"a": 1') is None
    assert parse_json("{} {}") is None
