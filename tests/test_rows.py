"""Rows of tables and of JSON."""

import os
from pathlib import Path

import pytest
from datasets import Dataset
from tiny_documents import ROWS, write_dataset, write_parquet

from rag_finetune.data.formats import Source, find_source
from rag_finetune.data.rows import read_rows


def read(path, passages_format=None):
    return list(read_rows(find_source(path, passages_format)))


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_json_list_tells_the_line_of_each_row(tmp_path):
    path = write(tmp_path / "p.json", '[\n{"text": "a"},\n\n{"text":\n"b"}]')
    assert read(path) == [(f"{path}:2", {"text": "a"}), (f"{path}:4", {"text": "b"})]


def test_a_json_file_may_hold_one_object_a_line(tmp_path):
    path = write(tmp_path / "p.json", '{"text": "a"}\n{"text": "b"}\n')
    assert read(path) == [(f"{path}:1", {"text": "a"}), (f"{path}:2", {"text": "b"})]


def test_one_object_over_several_lines_is_refused(tmp_path):
    path = write(tmp_path / "p.json", '{\n "data": [\n {"text": "a"}\n ]\n}\n')
    message = r'p\.json:1: expected a list of objects or one object a line, found .* "data"'
    with pytest.raises(ValueError, match=message):
        read(path)


def test_broken_json_names_its_line(tmp_path):
    lines = ['{"text": "a"}'] * 16 + ['{"text": "a}'] + ['{"text": "a"}']
    path = write(tmp_path / "p.jsonl", "\n".join(lines))
    with pytest.raises(ValueError, match=r"p\.jsonl:17: expected one JSON object a line"):
        read(path)
    path = write(tmp_path / "p.json", "[" + ",\n".join(lines) + "]")
    with pytest.raises(ValueError, match=r"p\.json:1[78]: expected a JSON list of objects"):
        read(path)


def test_columns_that_are_not_ours_are_not_read(tmp_path):
    for path in (write_parquet(tmp_path / "p.parquet", ROWS), write_dataset(tmp_path / "p", ROWS)):
        rows = read(path)
        assert rows[3] == (f"{path}, row 3 (from 0)", ROWS[3])
        assert len(rows) == 5


def test_rows_are_numbered_across_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("rag_finetune.data.rows.ROWS_PER_BATCH", 2)
    for path in (write_parquet(tmp_path / "p.parquet", ROWS), write_dataset(tmp_path / "p", ROWS)):
        places = [place for place, _ in read(path)]
        assert places == [f"{path}, row {n} (from 0)" for n in range(5)]


def test_a_file_whose_name_looks_like_a_pattern_is_read(tmp_path):
    path = write_parquet(tmp_path / "plain.parquet", ROWS)
    strange = tmp_path / "p[1] *?.parquet"
    path.rename(strange)
    write_parquet(tmp_path / "p1 xx.parquet", ROWS[:1])
    assert len(read(strange)) == 5


def test_reading_parquet_leaves_nothing_behind(tmp_path, monkeypatch):
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    assert len(read(write_parquet(tmp_path / "p.parquet", ROWS))) == 5
    assert not cache.exists()
    assert os.listdir(temporary) == []


def test_a_text_column_that_is_missing_is_guessed(tmp_path):
    rows = [{"id": "1", "passage": "a"}]
    message = r'expected the column "text", found "id", "passage".*Rename "passage" to "text"'
    for path in (write_parquet(tmp_path / "p.parquet", rows), write_dataset(tmp_path / "p", rows)):
        with pytest.raises(ValueError, match=message):
            read(path)


@pytest.mark.parametrize("raw", [b"", b"PAR", b"hello world", b"PAR1" + b"x" * 20])
def test_what_is_no_parquet_file_is_named(tmp_path, raw):
    path = tmp_path / "p.parquet"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r'p\.parquet: expected a Parquet file.*"PAR1"'):
        read(path)


def test_a_damaged_parquet_file_is_named(tmp_path, capfd):
    path = write_parquet(tmp_path / "p.parquet", ROWS)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + b"\xff" * 20 + raw[len(raw) // 2 + 20 :])
    for damaged in (path.read_bytes(), b"PAR1PAR1"):
        path.write_bytes(damaged)
        capfd.readouterr()
        with pytest.raises(
            ValueError, match=r"p\.parquet: expected a Parquet file, found one that"
        ):
            read(path)
        assert capfd.readouterr().err == ""


@pytest.mark.parametrize("damage", ["truncate", "delete", "state"])
def test_a_damaged_dataset_is_named(tmp_path, damage):
    folder = write_dataset(tmp_path / "p", ROWS)
    file = next(folder.glob("*.arrow"))
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "delete":
        file.unlink()
    else:
        (folder / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"/p: expected a folder that Dataset\.save_to_disk wrote"):
        read(folder)


def test_a_dataset_without_rows_is_named(tmp_path):
    Dataset.from_dict({"text": []}).save_to_disk(tmp_path / "p")
    with pytest.raises(ValueError, match=r"/p: expected a folder .* \(it has no rows\)"):
        read(tmp_path / "p")


def test_a_dataset_with_a_format_gives_plain_values(tmp_path):
    Dataset.from_list([{"id": 1, "text": "a"}]).with_format("numpy").save_to_disk(tmp_path / "p")
    assert read(tmp_path / "p") == [(f"{tmp_path / 'p'}, row 0 (from 0)", {"id": 1, "text": "a"})]


def test_flashrag_needs_its_column(tmp_path):
    path = write(tmp_path / "p.csv", "id,contents\n1,a\n")
    assert read(path) == [(f"{path}:2", {"id": "1", "contents": "a"})]
    write(path, "id,text\n1,a\n")
    with pytest.raises(
        ValueError, match=r'columns id, contents, found "id", "text"\. Rename "text" to "co'
    ):
        read(path, "flashrag")


def test_utf_16_is_named(tmp_path):
    for name in ("p.tsv", "p.csv", "p.jsonl", "p.json"):
        path = tmp_path / name
        path.write_bytes("id\ttext\ttitle\n1\ta\tb\n".encode("utf-16"))
        with pytest.raises(
            ValueError, match=rf"{name}:1: expected UTF-8 text, found the byte 0xff"
        ):
            read(path)


def test_utf_16_without_a_mark_is_named(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_bytes("id\ttext\ttitle\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"p\.tsv:1: .* NUL characters, as in UTF-16"):
        read(path)


def test_a_source_is_read_as_it_says(tmp_path):
    path = write(tmp_path / "p.txt", "title\ttext\nA\tb\n")
    assert list(read_rows(Source(Path(path), "tsv", ""))) == [
        (f"{path}:2", {"title": "A", "text": "b"})
    ]
