import warnings
from pathlib import Path

import pytest

from rag_finetune.data.passages import iter_passages, load_passages

SQUAD = Path(__file__).parents[2] / "shared" / "data" / "squad"


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def ids(path, passage_words=100):
    return [passage["id"] for passage in iter_passages(path, passage_words)]


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
    message = r':1: expected the key "text", found "id", "txt"\. Did you mean "text" by "txt"\?'
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


def test_csv_without_text_column_is_an_error(tmp_path):
    path = write(tmp_path / "p.csv", "id,texts\n1,a\n")
    message = r'found "id", "texts"\. Did you mean "text" by "texts"\? Put that header'
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
    path = write(tmp_path / "p.json", "[]")
    message = r'p\.json: expected passages in a \.tsv, \.csv or \.jsonl file, found "\.json"'
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
