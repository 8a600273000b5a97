"""Documents out of rows and files."""

import json
import os
import sys

import pytest
from tiny_documents import ROWS, make_pdf, write_lines, write_parquet

from rag_finetune.data.documents import Document, find_sources, read_documents
from rag_finetune.data.reports import Report


def read(paths, passages_format=None, report=None):
    return list(read_documents(find_sources(paths, passages_format), report or Report()))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_document_knows_where_it_stands(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", ROWS)
    assert read(path)[1] == Document(f"{path}:2", "a2", ROWS[1]["title"], ROWS[1]["text"])


@pytest.mark.parametrize(
    ("contents", "title", "text"),
    [
        ('"Oslo"\nlies\nthere', "Oslo", "lies\nthere"),
        ("Oslo\nlies", "Oslo", "lies"),
        ('"To be" or not\nx', '"To be" or not', "x"),
        ('""\nx', "", "x"),
        ("one line only", "", "one line only"),
    ],
)
def test_the_first_line_of_contents_is_the_title(tmp_path, contents, title, text):
    path = write_lines(tmp_path / "p.jsonl", [{"id": 1, "contents": contents}])
    assert [(d.title, d.text) for d in read(path)] == [(title, text)]


def test_named_flashrag_reads_contents_where_there_is_text_as_well(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [{"contents": "T\nfrom contents", "text": "text"}])
    assert read(path)[0].text == "text"
    assert read(path, "flashrag")[0].text == "from contents"
    write_lines(path, [{"text": "text"}])
    message = r':1: expected the key "contents", found "text"\. Rename "text" to "contents" if'
    with pytest.raises(ValueError, match=message):
        read(path, "flashrag")


def test_beir_needs_its_ids(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", [{"_id": "x", "text": "a"}, {"text": "b"}])
    with pytest.raises(ValueError, match=r'corpus\.jsonl:2: expected the key "_id"'):
        read(tmp_path)
    assert [d.id for d in read(path)] == ["x", "1"]


def test_rows_without_text_are_reported_and_left_out(tmp_path):
    report = Report()
    rows = [{"text": "a"}, {"text": None}, {"text": " "}, {"contents": "T\n "}]
    path = write_parquet(tmp_path / "p.parquet", rows[:3])
    assert [d.id for d in read(path, report=report)] == ["0"]
    assert f"2 rows have no text and were left out: {path}, row 1 (from 0), " in str(
        report.messages()
    )
    assert read(write_lines(tmp_path / "p.jsonl", rows[3:])) == []


def test_a_list_under_a_key_is_told_to_be_the_file(tmp_path):
    path = write(tmp_path / "p.json", json.dumps({"data": ROWS}))
    with pytest.raises(ValueError, match=r'found "data"\. The list under "data" must be the whole'):
        read(path)


def test_a_nul_character_in_a_row_is_named(tmp_path):
    path = write(tmp_path / "p.csv", "id,text\n1,a\n2,b\0c\n")
    with pytest.raises(ValueError, match=r'p\.csv:3: "text" holds a NUL character'):
        read(path)


def test_a_value_that_json_cannot_hold_is_named_by_its_type(tmp_path):
    path = write_parquet(tmp_path / "p.parquet", [{"text": b"raw"}])
    message = r'row 0 \(from 0\): "text" must be a string, found a value of the type bytes'
    with pytest.raises(ValueError, match=message):
        read(path)


def test_ids_of_a_parquet_file_are_whole_numbers_or_strings(tmp_path):
    path = write_parquet(tmp_path / "p.parquet", [{"id": 7, "text": "a"}])
    assert read(path)[0].id == "7"
    write_parquet(path, [{"id": 7.0, "text": "a"}])
    with pytest.raises(ValueError, match=r'"id" must be a non-empty string or a whole number'):
        read(path)


def test_a_missing_extra_is_told_at_the_first_pdf_file(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "x")
    (tmp_path / "b.pdf").write_bytes(make_pdf(["x"]))
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(ValueError, match=r"b\.pdf: .*pip install 'rag-finetune\[pdf\]'"):
        read(tmp_path)


def test_a_file_name_that_is_not_utf_8_is_an_error_of_its_own(tmp_path):
    write(tmp_path / "a.txt", "x")
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "w") as file:
            file.write("x")
    except OSError:
        pytest.skip("this file system holds no such name")
    report = Report()
    assert [d.id for d in read(tmp_path, report=report)] == ["a.txt"]
    with pytest.raises(ValueError, match=r"the name is not UTF-8\. Rename the file"):
        report.raise_errors()


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = write(tmp_path / "a.txt", "x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads everything")
    report = Report()
    assert read(tmp_path, report=report) == []
    with pytest.raises(ValueError, match=r"a\.txt: Permission denied"):
        report.raise_errors()
    with pytest.raises(PermissionError):
        read(path)


def test_an_empty_path_is_not_this_folder():
    with pytest.raises(ValueError, match=r'paths must name files or folders, found ""\.'):
        find_sources("")
