import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from datasets import Dataset
from tiny_documents import (
    PASSAGES,
    ROWS,
    make_pdf,
    write_beir,
    write_dataset,
    write_flashrag,
    write_lines,
    write_list,
    write_parquet,
    write_table,
)
from transformers import BertTokenizer

from rag_finetune.data import repeats
from rag_finetune.data.passages import iter_passages, load_passages, locate_documents

SQUAD = Path(__file__).parents[2] / "shared" / "data" / "squad"


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def ids(path, passage_words=100, **settings):
    return [passage["id"] for passage in iter_passages(path, passage_words, **settings)]


def quietly(path, *words, **settings):
    """All passages, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return list(iter_passages(path, *words, **settings))


def test_dpr_tsv_with_doubled_quotes_is_read(tmp_path):
    path = write(tmp_path / "p.tsv", 'id\ttext\ttitle\n7\t"He said ""yes"".\tTwice."\tTalk\n')
    assert list(iter_passages(path, 0)) == [
        {"id": "7", "document_id": "7", "title": "Talk", "text": 'He said "yes".\tTwice.'}
    ]


def test_tsv_of_title_and_text_counts_its_rows(tmp_path):
    path = write(tmp_path / "p.tsv", "title\ttext\nA\tfirst\nB\tsecond\n")
    assert ids(path) == ["0", "1"]


def test_csv_needs_only_text(tmp_path):
    path = write(tmp_path / "p.csv", 'source,text\nx,"one, two"\n')
    assert list(iter_passages(path)) == [
        {"id": "0", "document_id": "0", "title": "", "text": "one, two"}
    ]


def test_jsonl_takes_numbers_and_underscore_ids_and_null_titles(tmp_path):
    rows = '{"id": 7, "text": "a", "title": null}\n{"_id": "x", "text": "b", "title": "B"}\n'
    path = write(tmp_path / "p.jsonl", rows)
    assert [(p["id"], p["title"]) for p in iter_passages(path)] == [("7", ""), ("x", "B")]


def test_byte_order_mark_and_windows_newlines_change_nothing(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_bytes(b"\xef\xbb\xbftitle\ttext\r\nA\tone two\r\n")
    assert [p["text"] for p in iter_passages(path, 0)] == ["one two"]


def test_field_longer_than_the_csv_default_is_read(tmp_path):
    path = write(tmp_path / "p.csv", "text\n" + "x" * 200_000 + "\n")
    assert len(next(iter_passages(path))["text"]) == 200_000


def test_several_files_prefix_row_numbers_with_their_stem(tmp_path):
    one = write(tmp_path / "one.csv", "text\na\nb\n")
    two = write(tmp_path / "two.csv", "text\nc\n")
    assert ids([one, two]) == ["one-0", "one-1", "two-0"]


def test_long_document_is_cut_greedily_and_short_one_keeps_its_id(tmp_path):
    path = write(
        tmp_path / "p.csv", 'id,title,text\na,A," one  two three\nfour five "\nb,B,six seven\n'
    )
    assert list(iter_passages(path, 2)) == [
        {"id": "a#1", "document_id": "a", "title": "A", "text": "one  two"},
        {"id": "a#2", "document_id": "a", "title": "A", "text": "three\nfour"},
        {"id": "a#3", "document_id": "a", "title": "A", "text": "five"},
        {"id": "b", "document_id": "b", "title": "B", "text": "six seven"},
    ]


def test_zero_words_keep_the_text_exactly(tmp_path):
    path = write(tmp_path / "p.csv", 'text\n" one\n two "\n')
    assert [p["text"] for p in iter_passages(path, 0)] == [" one\n two "]


def test_one_word_a_passage_is_the_smallest_cut(tmp_path):
    path = write(tmp_path / "p.csv", "text\none two\n")
    assert [p["text"] for p in iter_passages(path, 1)] == ["one", "two"]


def test_dataset_has_the_four_columns_and_follows_the_file(tmp_path):
    path = write(tmp_path / "p.csv", "text\nold\n")
    assert load_passages(path).column_names == ["id", "document_id", "title", "text"]
    write(path, "text\nnew\n")
    assert load_passages(path)["text"][:] == ["new"]


def test_dataset_keeps_every_row_across_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("rag_finetune.data.passages.ROWS_PER_BATCH", 2)
    path = write(tmp_path / "p.csv", "text\na\nb\nc\nd\ne\n")
    assert load_passages(path)["text"][:] == ["a", "b", "c", "d", "e"]


def test_empty_rows_are_left_out_with_one_warning_that_counts_them(tmp_path):
    path = write(tmp_path / "p.jsonl", '{"text": "a"}\n{"text": null}\n\n{"text": " "}\n')
    with pytest.warns(UserWarning) as caught:
        assert ids(path) == ["0"]
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith("2 rows have no text and were left out: ")
    assert f"{path}:2, {path}:4. " in message


def test_warning_names_the_first_five_empty_rows(tmp_path):
    path = write(tmp_path / "p.csv", "id,text\n9,full\n" + "".join(f"{i},\n" for i in range(7)))
    with pytest.warns(UserWarning, match=r"^7 rows .*p\.csv:3, .*p\.csv:7, …\. Fill"):
        assert ids(path) == ["9"]


def test_full_files_do_not_warn(tmp_path):
    path = write(tmp_path / "p.csv", "text\na\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ids(path) == ["0"]


def test_duplicate_id_names_both_places(tmp_path):
    one = write(tmp_path / "one.csv", "id,text\n1,a\n")
    two = write(tmp_path / "two.csv", 'id,text\n2,"b\nb"\n1,c\n')
    with pytest.raises(
        ValueError, match=r'two\.csv:4: the id "1" is already taken by .*one\.csv:2'
    ):
        ids([one, two])


@pytest.mark.parametrize("rows", ["a,one two\na#2,three\n", "a#2,three\na,one two\n"])
def test_piece_id_that_meets_a_document_id_is_an_error(tmp_path, rows):
    path = write(tmp_path / "p.csv", "id,text\n" + rows)
    with pytest.raises(ValueError, match=r'p\.csv:3: the id "a#2" is already taken by .*p\.csv:2'):
        ids(path, 1)


def test_text_of_another_type_names_line_and_key(tmp_path):
    path = write(tmp_path / "p.jsonl", '{"text": "a"}\n{"text": 5}\n')
    with pytest.raises(
        ValueError, match=r'p\.jsonl:2: "text" must be a string, found the number 5'
    ):
        ids(path)


def test_title_of_another_type_names_line_and_key(tmp_path):
    path = write(tmp_path / "p.jsonl", '{"text": "a", "title": ["A"]}\n')
    with pytest.raises(ValueError, match=r':1: "title" must be a string, found a list of 1'):
        ids(path)


@pytest.mark.parametrize(("value", "found"), [("true", "true"), ('""', "an empty string")])
def test_id_that_names_nothing_is_an_error(tmp_path, value, found):
    path = write(tmp_path / "p.jsonl", f'{{"id": {value}, "text": "a"}}\n')
    with pytest.raises(ValueError, match=rf':1: "id" must be a non-empty string .*found {found}\.'):
        ids(path)


def test_missing_text_key_is_guessed(tmp_path):
    path = write(tmp_path / "p.jsonl", '{"id": 1, "txt": "a"}\n')
    message = r':1: expected the key "text", found "id", "txt"\. Rename "txt" to "text" if that '
    with pytest.raises(ValueError, match=message):
        ids(path)


def test_json_row_that_is_no_object_is_an_error(tmp_path):
    path = write(tmp_path / "p.jsonl", '"a"\n')
    with pytest.raises(ValueError, match=r':1: expected an object with "text", found the string'):
        ids(path)


@pytest.mark.parametrize("first", ["1\tSome text\tTitle\n", "id\tpassage\ttitle\n", ""])
def test_tsv_without_a_known_header_names_the_headers(tmp_path, first):
    path = write(tmp_path / "p.tsv", first)
    message = r"p\.tsv:1: expected a header with the columns id, text, title or title, text, found"
    with pytest.raises(ValueError, match=message):
        ids(path)


@pytest.mark.parametrize(
    ("name", "header", "remedy"),
    [
        ("p.tsv", "id,text,title", r"separated by commas: name it \.csv\."),
        ("p.csv", "id;text;title", r"separated by semicolons: save it with commas, as \.csv\."),
        ("p.tsv", "ID; Text", r"separated by semicolons: save it with commas, as \.csv\."),
        ("p.csv", "id\ttext\ttitle", r"separated by tabs: name it \.tsv\."),
        ("p.csv", "id;passage", r"Put the header on the first line\."),
    ],
)
def test_a_table_with_the_separator_of_another_format_is_told_so(tmp_path, name, header, remedy):
    with pytest.raises(ValueError, match=rf":1: expected a header .*{remedy}$"):
        ids(write(tmp_path / name, f"{header}\n1\ta\tb\n"))


def test_csv_without_text_column_is_an_error(tmp_path):
    path = write(tmp_path / "p.csv", "id,texts\n1,a\n")
    message = r'found "id", "texts"\. Rename "texts" to "text" if that is meant\. Put the header'
    with pytest.raises(ValueError, match=message):
        ids(path)


def test_row_with_too_few_fields_names_its_first_line(tmp_path):
    path = write(tmp_path / "p.csv", 'id,text\n1,"a\nb"\n"2\n2"\n')
    message = r'p\.csv:4: expected 2 fields \("id", "text"\), found 1\. Quote a field'
    with pytest.raises(ValueError, match=message):
        ids(path)


def test_quote_that_never_closes_names_the_row_where_it_opens(tmp_path):
    path = write(tmp_path / "p.tsv", 'title\ttext\nA\tfine\nB\t"open\nC\tmore\n')
    with pytest.raises(ValueError, match=r"p\.tsv:3: the row that begins here cannot be read"):
        ids(path)


def test_unknown_extension_names_what_is_read(tmp_path):
    path = write(tmp_path / "p.docx", "[]")
    message = r'p\.docx: expected passages in a \.tsv, .* or \.pdf file, found "\.docx"'
    with pytest.raises(ValueError, match=message):
        iter_passages(path)


def test_mistakes_are_found_before_the_first_passage_is_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError):
        iter_passages(tmp_path / "gone.tsv")
    with pytest.raises(ValueError, match="passage_words must be at least 0, found -1"):
        iter_passages(tmp_path / "gone.tsv", -1)
    with pytest.raises(ValueError, match="at least one file of passages"):
        iter_passages([])


@pytest.mark.parametrize("text", ["text\n", 'text\n""\n" "\n'])
def test_file_without_any_passage_is_an_error(tmp_path, text):
    path = write(tmp_path / "p.csv", text)
    with pytest.raises(ValueError, match=r"p\.csv: expected passages, found no row with text"):
        load_passages(path)


@pytest.mark.skipif(not SQUAD.exists(), reason="the SQuAD passages are not there")
def test_squad_passages_are_read_whole_and_cut():
    whole = load_passages(SQUAD / "passages.tsv", passage_words=0)
    assert len(whole) == len(set(whole["id"])) == 1216
    cut = load_passages(SQUAD / "passages.tsv", passage_words=100)
    assert (
        len(cut)
        == len(set(cut["id"]))
        == sum(-(-len(text.split()) // 100) for text in whole["text"])
    )
    assert set(cut["document_id"]) == set(whole["id"])
    assert max(len(text.split()) for text in cut["text"]) == 100


def test_pieces_are_as_few_as_can_be_and_of_even_size(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("id,text\na," + " ".join(f"w{i}" for i in range(9)) + "\n")
    sizes = [len(p["text"].split()) for p in iter_passages([path], passage_words=4)]
    assert sizes == [3, 3, 3]
    assert [len(p["text"].split()) for p in iter_passages([path], passage_words=8)] == [5, 4]


FIVE_ROWS = {
    "tsv": ("p.tsv", lambda path: write_table(path, "\t")),
    "csv": ("p.csv", lambda path: write_table(path, ",")),
    "json": ("p.json", lambda path: write_list(path, ROWS)),
    "jsonl": ("p.jsonl", lambda path: write_lines(path, ROWS)),
    "parquet": ("p.parquet", lambda path: write_parquet(path, ROWS)),
    "datasets": ("p", lambda path: write_dataset(path, ROWS)),
    "beir": ("p", write_beir),
    "flashrag": ("p.jsonl", write_flashrag),
}


@pytest.mark.parametrize("named", [True, False], ids=["named", "found"])
@pytest.mark.parametrize("layout", FIVE_ROWS)
def test_five_rows_are_read_back_in_every_format(tmp_path, layout, named):
    name, make = FIVE_ROWS[layout]
    path = make(tmp_path / name)
    assert quietly(path, 0, passages_format=layout if named else None) == PASSAGES
    assert load_passages(path, 0).to_list() == PASSAGES


def test_five_text_files_are_read_back(tmp_path):
    folder = tmp_path / "docs"
    write_text = lambda name, text: write((folder / name), text)  # noqa: E731
    (folder / "eu").mkdir(parents=True)
    write_text("a.txt", "Oslo lies by the sea.")
    write_text("eu/b.md", "# Rome\n\nAll roads.")
    write_text("eu/c.html", "<title>Kiev</title><p>A <b>city</b></p><p>on a river")
    write_text("eu/d.htm", "<p>no title")
    (folder / "eu/e.pdf").write_bytes(make_pdf(["Eine Stadt"], "Bern"))
    expected = [
        ("a.txt", "a", "Oslo lies by the sea."),
        ("eu/b.md", "Rome", "# Rome\n\nAll roads."),
        ("eu/c.html", "Kiev", "A city\n\non a river"),
        ("eu/d.htm", "d", "no title"),
        ("eu/e.pdf", "Bern", "Eine Stadt"),
    ]
    for settings in ({}, {"passages_format": "files"}):
        found = quietly(folder, 0, **settings)
        assert [(p["document_id"], p["title"], p["text"]) for p in found] == expected
        assert [p["id"] for p in found] == [p["document_id"] for p in found]
    assert quietly(folder / "eu/b.md", 0)[0]["id"] == "b.md"


def test_several_folders_put_their_names_first(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "read.md", f"text of {name}")
    assert ids([tmp_path / "one", tmp_path / "two"]) == ["one/read.md", "two/read.md"]


def test_neighbouring_passages_share_the_overlap(tmp_path):
    path = write(tmp_path / "p.csv", "id,text\na,1 2 3 4 5 6 7 8 9 10\n")
    assert [(p["id"], p["text"]) for p in iter_passages(path, 4, overlap=1)] == [
        ("a#1", "1 2 3 4"),
        ("a#2", "4 5 6 7"),
        ("a#3", "7 8 9 10"),
    ]
    with pytest.raises(ValueError, match="overlap must be at least 0 and below"):
        iter_passages(path, 4, overlap=4)


def test_chinese_is_cut_by_the_tokenizer_and_left_whole_without_it(tmp_path):
    text = "天地玄黄宇宙洪荒"
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *text])}
    path = write(tmp_path / "p.jsonl", f'{{"text": "{text}"}}\n{{"text": "word"}}\n')
    found = quietly(path, 3, tokenizer=BertTokenizer(vocab=vocabulary))
    assert [p["text"] for p in found] == ["天地玄", "黄宇宙", "洪荒", "word"]
    with pytest.warns(UserWarning) as caught:
        assert [p["text"] for p in iter_passages(path, 3)] == [text, "word"]
    assert len(caught) == 1
    message = r"^1 document is written without spaces .*p\.jsonl:1\. Pass the encoder's tokenizer"
    assert re.match(message, str(caught[0].message))


def test_repeated_contents_are_kept_with_one_warning_that_names_both_places(tmp_path):
    rows = "a,T,same\nb,T,same\nc,U,same\nd,T,same\n"
    path = write(tmp_path / "p.csv", "id,title,text\n" + rows)
    with pytest.warns(UserWarning) as caught:
        assert ids(path) == ["a", "b", "c", "d"]
    assert len(caught) == 1
    start = "2 documents repeat title and text of an earlier one and were kept: "
    places = f"{path}:3 repeats {path}:2, {path}:5 repeats {path}:2. Delete"
    assert str(caught[0].message).startswith(start + places)


def test_all_repeated_contents_are_counted_and_five_named(tmp_path):
    path = write(tmp_path / "p.csv", "text\n" + "same\n" * 9)
    with pytest.warns(UserWarning, match=r"^8 documents repeat .*:7 repeats [^,]*:2, …\. Delete"):
        assert len(ids(path)) == 9


def test_shared_hashes_are_neither_error_nor_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(repeats, "key_hash", len)
    path = write(tmp_path / "p.csv", "id,text\na,one\nb,two\nc,six\n")
    assert [p["id"] for p in quietly(path)] == ["a", "b", "c"]
    write(path, "id,text\na,one\nb,two\na,six\n")
    with pytest.raises(ValueError, match=r'p\.csv:4: the id "a" is already taken by .*p\.csv:2'):
        ids(path)


def test_repeated_id_in_a_parquet_file_names_its_rows(tmp_path):
    path = write_parquet(tmp_path / "p.parquet", [*ROWS, {**ROWS[1], "text": "other"}])
    message = r'p\.parquet, row 5 \(from 0\): the id "a2" is already taken by .*, row 1 \(from 0\)'
    with pytest.raises(ValueError, match=message):
        ids(path)


def test_files_of_one_stem_clash_only_where_rows_have_no_ids(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "p.csv", f"id,text\n{name},text {name}\n")
    paths = [tmp_path / "x/p.csv", tmp_path / "y/p.csv"]
    assert ids(paths) == ["x", "y"]
    for path in paths:
        write(path, f"text\n{path.parent.name}\n")
    message = r'y/p\.csv:2: the id "p-0" .*x/p\.csv:2.* called after its file'
    with pytest.raises(ValueError, match=message):
        ids(paths)


def test_a_path_named_twice_is_an_error(tmp_path):
    path = write(tmp_path / "p.csv", "text\na\n")
    with pytest.raises(ValueError, match="is named twice"):
        iter_passages([path, tmp_path / "." / "p.csv"])


def test_files_of_a_folder_that_cannot_be_read_are_named_together_at_the_end(tmp_path):
    write(tmp_path / "a.txt", "fine")
    (tmp_path / "b.txt").write_bytes("text".encode("utf-16"))
    (tmp_path / "c.pdf").write_bytes(b"%PDF-1.4 broken")
    (tmp_path / "d.txt").symlink_to(tmp_path / "gone")
    write(tmp_path / "e.txt", "fine too")
    passages = iter_passages(tmp_path)
    assert [next(passages)["id"], next(passages)["id"]] == ["a.txt", "e.txt"]
    message = r"^3 files cannot be read: .*b\.txt:1: .*c\.pdf: expected a PDF.*d\.txt: .*"
    with pytest.raises(ValueError, match=message):
        next(passages)


def test_files_left_out_of_a_folder_are_told_in_one_warning_each(tmp_path):
    write(tmp_path / "a.txt", "fine")
    write(tmp_path / "b.docx", "x")
    write(tmp_path / "c.docx", "x")
    write(tmp_path / "d.png", "x")
    (tmp_path / "scan.pdf").write_bytes(make_pdf([""]))
    with pytest.warns(UserWarning) as caught:
        assert ids(tmp_path) == ["a.txt"]
    scan, skipped = sorted(str(w.message) for w in caught)
    assert scan.startswith(f"1 file has no text and was left out: {tmp_path}/scan.pdf. A scanned")
    kinds = f"2 .docx (such as {tmp_path}/b.docx), 1 .png (such as {tmp_path}/d.png). Folders"
    assert skipped.startswith("3 files were not read: " + kinds)


def test_a_folder_of_scans_only_says_so(tmp_path):
    (tmp_path / "scan.pdf").write_bytes(make_pdf([""]))
    with pytest.raises(
        ValueError, match=r"expected passages, found no row .*scan\.pdf\. A scanned"
    ):
        ids(tmp_path)


def test_a_dataset_dict_names_its_splits(tmp_path):
    from datasets import DatasetDict

    DatasetDict(train=Dataset.from_list(ROWS)).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(ValueError, match=r'a DatasetDict with the splits "train"\..*d/train, for'):
        iter_passages(tmp_path / "d")
    assert len(ids(tmp_path / "d" / "train")) == 5


def test_documents_are_located_in_a_second_pass(tmp_path):
    one = write(tmp_path / "one.csv", 'id,text\n1,a\n2,"b\nb"\n3,c\n')
    two = write_parquet(tmp_path / "two.parquet", [{"text": "a b"}, {"text": "b c"}])
    assert locate_documents([one, two], ["3", "two-1", "gone"]) == {
        "3": f"{one}:5",
        "two-1": f"{two}, row 1 (from 0)",
    }
    assert locate_documents(tmp_path / "gone.csv", []) == {}


def anonymous_growth(rows, folder):
    """Megabytes that reading so many rows adds to the anonymous memory of a fresh process."""
    code = """
import re, sys
from rag_finetune.data.passages import iter_passages
def anonymous():
    rollup = open("/proc/self/smaps_rollup").read()
    return int(re.search(r"^Anonymous: +([0-9]+)", rollup, re.M)[1]) / 1024
path, rows = sys.argv[1], int(sys.argv[2])
with open(path, "w") as file:
    for n in range(rows):
        file.write('{"id": "document-%d", "text": "%s"}\\n' % (n, f"{n} word " * 40))
before = anonymous()
peak = max(anonymous() for n, _ in enumerate(iter_passages(path)) if n % 1000 == 0)
print(max(peak, anonymous()) - before)
"""
    words = [sys.executable, "-c", code, str(folder / f"{rows}.jsonl"), str(rows)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_ids_are_not_held(tmp_path):
    # 24 bytes a row in the end; a dict of ids with their places takes over 200.
    assert anonymous_growth(40_000, tmp_path) - anonymous_growth(4_000, tmp_path) < 4


@pytest.mark.skipif(not SQUAD.exists(), reason="the SQuAD passages are not there")
def test_squad_passages_overlap_and_are_the_same_in_every_format(tmp_path):
    rows = load_passages(SQUAD / "passages.tsv", 0).remove_columns("document_id").to_list()
    paths = [
        write_list(tmp_path / "p.json", rows),
        write_parquet(tmp_path / "p.parquet", rows),
        write_dataset(tmp_path / "p", rows),
    ]
    expected = list(iter_passages(SQUAD / "passages.tsv", 60, overlap=10))
    for path in paths:
        assert list(iter_passages(path, 60, overlap=10)) == expected
    by_id = {p["id"]: p["text"].split() for p in expected}
    pairs = [(name, f"{name[:-2]}#2") for name in by_id if name.endswith("#1")]
    assert len(pairs) > 1000
    assert all(by_id[a][-10:] == by_id[b][:10] for a, b in pairs)
