import json

import pytest

from rag_finetune.files import (
    check_file,
    describe,
    nearest,
    read_json_lines,
    read_lines,
    read_text,
    staged_folder,
    write_json,
    write_json_list,
    write_jsonl,
    write_text,
)


def test_byte_order_mark_and_windows_newlines_are_read_away(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfK\xc3\xb6ln\r\nBonn\r\n")
    assert read_text(path) == "Köln\nBonn\n"


def test_only_newlines_end_a_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\u2028still one\x0cstill\ntwo", encoding="utf-8")
    assert list(read_lines(path)) == ["one\u2028still one\x0cstill\n", "two"]


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("first\nsecond\nKöln\n".encode("latin-1"))
    message = r"latin\.txt:3: expected UTF-8 text, found the byte 0xf6\. Save the file as UTF-8\."
    with pytest.raises(ValueError, match=message):
        read_text(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.txt: expected a file, found nothing"):
        read_text(tmp_path / "gone.txt")


def test_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"expected a file, found a folder"):
        check_file(tmp_path)


def test_json_lines_come_with_true_line_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n[2]\n', encoding="utf-8")
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (3, [2])]


def test_syntax_error_in_json_lines_names_line_and_column(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": }\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.jsonl:2: .* at column 7 \(Expecting value\)"):
        list(read_json_lines(path))


def test_half_a_surrogate_pair_is_refused_and_a_whole_one_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('"\\ud83d\\ude00"\n"\\ud83d"\n', encoding="utf-8")
    lines = read_json_lines(path)
    assert next(lines) == (1, "😀")
    with pytest.raises(ValueError, match=r"a\.jsonl:2: .*found \\ud83d without its other half"):
        next(lines)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("Paris", 'the string "Paris"'),
        (" ", "an empty string"),
        (3, "the number 3"),
        (True, "true"),
        (None, "null"),
        ([], "an empty list"),
        ([1, 2], "a list of 2"),
        ({}, "an object"),
    ],
)
def test_json_values_are_named_in_words(value, words):
    assert describe(value) == words


def test_nearest_finds_a_slip_and_nothing_far_away():
    assert nearest("anwsers", ["question", "answers"]) == "answers"
    assert nearest("zebra", ["question", "answers"]) == ""


def test_staged_folder_appears_when_complete(tmp_path):
    target = tmp_path / "new" / "index"
    with staged_folder(target) as folder:
        (folder / "a.txt").write_text("a", encoding="utf-8")
        assert folder.parent == target.parent
        assert folder.name.startswith(".index.partial-")
        assert not target.exists()
    assert (target / "a.txt").read_text(encoding="utf-8") == "a"
    assert list(target.parent.iterdir()) == [target]


def test_staged_folder_replaces_what_was_there(tmp_path):
    target = tmp_path / "index"
    target.mkdir()
    (target / "old.txt").touch()
    with staged_folder(target) as folder:
        (folder / "new.txt").touch()
    assert [path.name for path in target.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [target]


def test_staged_folder_that_fails_leaves_the_old_one(tmp_path):
    target = tmp_path / "index"
    target.mkdir()
    (target / "old.txt").touch()
    with pytest.raises(RuntimeError), staged_folder(target) as folder:
        (folder / "new.txt").touch()
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old.txt"]
    assert list(tmp_path.iterdir()) == [target]


def test_staged_folder_does_not_replace_a_file(tmp_path):
    target = tmp_path / "index"
    target.touch()
    with pytest.raises(FileExistsError, match="expected a folder, found a file"):
        with staged_folder(target):
            pass
    assert list(tmp_path.iterdir()) == [target]


def test_staged_folder_follows_a_link(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    with staged_folder(link) as folder:
        (folder / "a.txt").touch()
    assert link.is_symlink()
    assert (real / "a.txt").exists()


def test_json_is_indented_and_keeps_its_letters(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"town": "Köln"})
    assert path.read_bytes() == '{\n  "town": "Köln"\n}\n'.encode()


def test_jsonl_holds_one_value_a_line(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, ({"row": row} for row in range(2)))
    assert path.read_text(encoding="utf-8") == '{"row": 0}\n{"row": 1}\n'


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.jsonl"
    write_text(path, "old\n")
    with pytest.raises(TypeError):
        write_jsonl(path, [{"fine": 1}, {"not json": json}])
    assert path.read_text(encoding="utf-8") == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_line_of_endless_brackets_is_refused_by_its_number(tmp_path):
    path = tmp_path / "deep.jsonl"
    path.write_text("{}\n" + "[" * 100_000 + "\n")
    with pytest.raises(ValueError, match=r"deep\.jsonl:2: .* nested too deeply"):
        list(read_json_lines(path))


@pytest.mark.parametrize("rows", [[], [{"a": "é"}], [1, [2], None]], ids=str)
def test_a_list_is_written_as_its_values_come(tmp_path, rows):
    write_json_list(tmp_path / "deep" / "list.json", iter(rows))
    text = (tmp_path / "deep" / "list.json").read_text(encoding="utf-8")
    assert json.loads(text) == rows
    assert text.count("\n") == (len(rows) + 2 if rows else 1)
