"""Formats of passages, told apart or named."""

import json

import pytest

from rag_finetune.data.formats import (
    FORMATS,
    Source,
    check_format,
    find_source,
    hint_text,
    text_key,
)


def touch(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("a.tsv", "tsv"),
        ("a.CSV", "csv"),
        ("a.json", "json"),
        ("a.jsonl", "json"),
        ("a.parquet", "parquet"),
        ("a.txt", "files"),
        ("a.md", "files"),
        ("a.html", "files"),
        ("a.htm", "files"),
        ("a.pdf", "files"),
    ],
)
def test_a_file_is_told_by_its_extension(tmp_path, name, reader):
    path = touch(tmp_path / name)
    assert find_source(path) == Source(path, reader, "")


def test_a_folder_is_told_by_what_it_holds(tmp_path):
    assert find_source(tmp_path) == Source(tmp_path, "files", "")
    corpus = touch(tmp_path / "corpus.jsonl")
    assert find_source(tmp_path) == Source(corpus, "json", "beir")
    touch(tmp_path / "state.json")
    assert find_source(tmp_path) == Source(tmp_path, "datasets", "")


@pytest.mark.parametrize(
    ("named", "name", "reader", "layout"),
    [
        ("tsv", "a.txt", "tsv", ""),
        ("jsonl", "a.txt", "json", ""),
        ("beir", "a.txt", "json", "beir"),
        ("flashrag", "a.jsonl", "json", "flashrag"),
        ("flashrag", "a.parquet", "parquet", "flashrag"),
        ("files", "a.md", "files", ""),
    ],
)
def test_a_format_that_is_named_wins(tmp_path, named, name, reader, layout):
    path = touch(tmp_path / name)
    assert find_source(path, named) == Source(path, reader, layout)


def test_an_unknown_format_names_the_choices():
    check_format(None)
    for name in FORMATS:
        check_format(name)
    with pytest.raises(ValueError, match=r'one of tsv, csv, .*, files, found "jsonll"\. Did you'):
        check_format("jsonll")


def test_a_dataset_dict_names_its_splits(tmp_path):
    touch(tmp_path / "dataset_dict.json", json.dumps({"splits": ["train", "test"]}))
    message = r'found a DatasetDict with the splits "train", "test"\. .*/train, for example'
    with pytest.raises(ValueError, match=message):
        find_source(tmp_path)


def test_a_damaged_dataset_dict_is_named(tmp_path):
    touch(tmp_path / "dataset_dict.json", "[]")
    with pytest.raises(ValueError, match=r'dataset_dict\.json: expected an object with "splits"'):
        find_source(tmp_path)


def test_a_folder_that_is_no_dataset_is_refused_under_that_name(tmp_path):
    with pytest.raises(ValueError, match=r"found no state\.json"):
        find_source(tmp_path, "datasets")
    with pytest.raises(FileNotFoundError):
        find_source(tmp_path / "gone", "datasets")


def test_a_folder_where_a_file_is_needed_is_refused(tmp_path):
    for name in ("tsv", "parquet", "flashrag"):
        with pytest.raises(IsADirectoryError, match="expected a file, found a folder"):
            find_source(tmp_path, name)


def test_a_beir_folder_without_its_corpus_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"corpus\.jsonl: expected a file"):
        find_source(tmp_path, "beir")


def test_an_unknown_extension_names_those_that_are_read(tmp_path):
    path = touch(tmp_path / "p.docx")
    message = r'in a \.tsv, .* or \.pdf file, found "\.docx"\. .* name its format with --passages_f'
    with pytest.raises(ValueError, match=message):
        find_source(path)


def test_a_device_is_refused():
    with pytest.raises(ValueError, match="found a pipe or a device"):
        find_source("/dev/null", "tsv")


def test_the_key_of_the_text_follows_the_layout():
    assert text_key(["contents", "text"], "") == "text"
    assert text_key(["id", "contents"], "") == "contents"
    assert text_key(["contents", "text"], "flashrag") == "contents"
    assert text_key(["contents"], "beir") == ""


def test_a_key_that_was_meant_as_the_text_is_guessed():
    assert hint_text(["id", "txt"]) == ' Rename "txt" to "text" if that is meant.'
    assert hint_text(["id", "passage"]) == ' Rename "passage" to "text" if that is meant.'
    assert hint_text(["id", "text"], "contents") == ' Rename "text" to "contents" if that is meant.'
    assert hint_text(["id"]) == ""
