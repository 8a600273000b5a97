"""Questions in tables: five rows each, read back by value, and damaged ones."""

import json
import re

import pytest

from rag_finetune.data.qa import load_questions

QUESTIONS = ["Who?", "Où est-ce?", 'What is "it"?', "什么?", "Why, then?"]
ANSWERS = [["Ada"], ["Paris", "à Paris"], ["O'Brien"], ["水"], ["because", "so"]]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))
    return path


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


# ---- DPR's tables ----


@pytest.mark.parametrize("name", [None, "dpr_table"])
@pytest.mark.parametrize("header", ["", "question\tanswers\n"])
@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_dpr_tables(tmp_path, name, header, suffix, bom):
    rows = [f"{q}\t{a!r}\n" for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
    path = write(tmp_path / f"nq-test.qas{suffix}", bom + header + "".join(rows))
    dataset = load_questions(path, qa_format=name)
    assert (dataset["question"][:], dataset["answers"][:]) == (QUESTIONS, ANSWERS)
    assert len(set(dataset["id"])) == 5


def test_table_with_commas_quotes_and_windows_newlines(tmp_path):
    rows = [f"{quoted(q)},{quoted(str(a))}\r\n" for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
    dataset = load_questions(write(tmp_path / "qa.csv", "Question,Answer\r\n" + "".join(rows)))
    assert (dataset["question"][:], dataset["answers"][:]) == (QUESTIONS, ANSWERS)


def test_what_is_no_list_is_one_answer(tmp_path):
    path = write(tmp_path / "qa.tsv", "q?\tParis\nr?\t[1] in full\n")
    assert load_questions(path)["answers"][:] == [["Paris"], ["[1] in full"]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("r?", "2: expected 2 fields, the question and a list of answers, found 1."),
        ("r?\ta\tb", "2: expected 2 fields, the question and a list of answers, found 3."),
        (" \ta", '2: "question" must be a non-empty string, found an empty string.'),
        ("r?\t", '2: "answers" must be a non-empty list of strings, found an empty string'),
        (
            "r?\t[]",
            '2: "answers" must be a non-empty list of strings, found the string "[]". Write ["…"]',
        ),
        ("r?\t['a', 5]", '2: "answers" must be a non-empty list of strings, found the string "[\''),
        ("r?\t[open('x')]", '2: "answers" must be a non-empty list of strings, found the string'),
        ("r?\t['a', ' ']", '2: "answers" must be a non-empty list of strings, found an empty str'),
        ('"r?\ta', "2: the row that begins here cannot be read (unexpected end of data)."),
    ],
)
def test_damaged_table_names_the_line(tmp_path, row, message):
    path = write(tmp_path / "qa.tsv", f"q?\t['a']\n{row}\n")
    with pytest.raises(ValueError) as caught:
        load_questions(path)
    assert str(caught.value).startswith(f"{path}:{message}")


@pytest.mark.parametrize("text", ["", "\n", "question\tanswers\n"])
def test_table_without_questions_is_an_error(tmp_path, text):
    with pytest.raises(ValueError, match="expected at least one question, found none"):
        load_questions(write(tmp_path / "qa.tsv", text))


# ---- train.source, train.target ----


@pytest.mark.parametrize("name", [None, "lines"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_of_two_files(tmp_path, name, newline):
    lines = ["Ada", "['Paris', 'à Paris']", "O'Brien", "水", "['because', 'so']"]
    path = write(tmp_path / "train.source", "\ufeff" + newline.join([*QUESTIONS, ""]))
    write(tmp_path / "train.target", newline.join([*lines, "", ""]))
    dataset = load_questions(path, qa_format=name)
    assert (dataset["question"][:], dataset["answers"][:]) == (QUESTIONS, ANSWERS)


def test_unequal_numbers_of_lines_are_both_said(tmp_path):
    path = write(tmp_path / "train.source", "q?\nr?\n")
    write(tmp_path / "train.target", "a\n")
    message = "as many lines as train.target has, found 2 questions and 1 answers"
    for need_answers in (True, False):
        with pytest.raises(ValueError, match=message):
            load_questions(path, need_answers=need_answers)


def test_answers_may_be_missing_where_they_are_not_needed(tmp_path):
    path = write(tmp_path / "train.source", "q?\nr?\n")
    assert load_questions(path, need_answers=False)["answers"][:] == [[], []]
    with pytest.raises(FileNotFoundError, match=r"train\.target: expected a file"):
        load_questions(path)
    write(tmp_path / "train.target", "\nb\n")
    assert load_questions(path, need_answers=False)["answers"][:] == [[], ["b"]]
    with pytest.raises(ValueError, match=r'train\.target:1: "answers" must be a non-empty list'):
        load_questions(path)


def test_an_empty_line_among_the_questions_is_named(tmp_path):
    path = write(tmp_path / "train.source", "q?\n\nr?\n")
    write(tmp_path / "train.target", "a\nb\nc\n")
    with pytest.raises(ValueError, match=r'train\.source:2: "question" must be a non-empty string'):
        load_questions(path)


def test_the_file_of_answers_is_not_the_one_to_give(tmp_path):
    path = write(tmp_path / "train.target", "a\n")
    with pytest.raises(ValueError, match=r'ends in "\.source", found "train\.target"'):
        load_questions(path)


# ---- BEIR ----

QRELS = [("q1", "d1", 1), ("q1", "d2", 0), ("q2", "d3", 2), ("q1", "d4", 1), ("q4", "d1", 0)]


@pytest.fixture
def beir(tmp_path):
    """A BEIR folder: five queries, four of them judged; the qrels of another split."""
    ids = ["q0", "q1", "q2", "q3", "q4"]
    rows = [{"_id": i, "text": q, "metadata": {}} for i, q in zip(ids, QUESTIONS, strict=True)]
    write(tmp_path / "queries.jsonl", "\n".join(json.dumps(row) for row in rows))
    judged = [*QRELS, ("q3", "d3", 1)]
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in judged)]
    write(tmp_path / "qrels" / "dev.tsv", "query-id\tcorpus-id\tscore\n")
    write(tmp_path / "qrels" / "test.tsv", "\ufeff" + "\r\n".join(lines) + "\r\n")
    return tmp_path


@pytest.mark.parametrize("name", [None, "beir"])
def test_beir_questions_come_with_the_ids_that_were_judged_relevant(beir, name):
    dataset = load_questions(beir / "qrels" / "test.tsv", qa_format=name, need_answers=False)
    assert dataset["id"][:] == ["q1", "q2", "q3", "q4"]
    assert dataset["question"][:] == QUESTIONS[1:]
    assert dataset["positive_ids"][:] == [["d1", "d4"], ["d3"], ["d3"], []]
    assert dataset["answers"][:] == dataset["positive_passages"][:] == [[], [], [], []]
    assert dataset["positive_grades"][:] == [[], [2.0], [], []]


def test_beir_cannot_be_trained_on(beir):
    message = r"test\.tsv: expected questions with answers, found BEIR's\. `train` needs answers;"
    with pytest.raises(ValueError, match=message):
        load_questions(beir / "qrels" / "test.tsv")


@pytest.mark.parametrize("name", [None, "beir"])
def test_a_beir_folder_lists_the_files_to_choose_from(beir, name):
    message = r"found a BEIR folder\. Give one of qrels/dev\.tsv, qrels/test\.tsv in it\."
    with pytest.raises(OSError, match=message):
        load_questions(beir, qa_format=name, need_answers=False)


def test_beir_queries_alone_point_at_the_judgements(beir):
    with pytest.raises(ValueError, match=r"queries\.jsonl: .*BEIR's queries, give a file under qr"):
        load_questions(beir / "queries.jsonl", need_answers=False)


def test_judgements_of_nothing_are_an_error(beir):
    with pytest.raises(ValueError, match=r"dev\.tsv: expected at least one question, found none"):
        load_questions(beir / "qrels" / "dev.tsv", need_answers=False)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q1 d1 1", '2: expected 3 fields ("query-id", "corpus-id", "score"), found 1.'),
        ("q1\t0\td1\t1", '2: expected 3 fields ("query-id", "corpus-id", "score"), found 4.'),
        ("q1\td1\t", '2: expected 3 fields ("query-id", "corpus-id", "score"), found 2.'),
        ("q1\td1\thigh", '2: "score" must be a number, found the string "high".'),
        ("q9\td1\t1", '2: the query-id "q9" is in no row of '),
    ],
)
def test_damaged_judgements_name_the_line(beir, row, message):
    path = write(beir / "qrels" / "test.tsv", f"query-id\tcorpus-id\tscore\n{row}\n")
    with pytest.raises(ValueError) as caught:
        load_questions(path, need_answers=False)
    assert str(caught.value).startswith(f"{path}:{message}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"_id": "q1"}', 'queries.jsonl:1: expected the key "text", found "_id".'),
        ('{"_id": "q1", "text": null}', 'queries.jsonl:1: "text" must be a non-empty string, f'),
        ('["q1"]', 'queries.jsonl:1: expected an object with "_id" and "text", found a list of 1'),
        (
            '{"_id": ',
            "queries.jsonl:1: expected one JSON object a line, found that the line ends too soon",
        ),
    ],
)
def test_damaged_queries_name_the_line(beir, row, message):
    write(beir / "queries.jsonl", row + "\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        load_questions(beir / "qrels" / "test.tsv", need_answers=False)


def test_missing_queries_are_named(beir):
    (beir / "queries.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"queries\.jsonl: expected a file"):
        load_questions(beir / "qrels" / "test.tsv", need_answers=False)


def test_a_table_named_beir_without_its_header_says_which(tmp_path):
    path = write(tmp_path / "qa.tsv", "question\tanswers\n")
    with pytest.raises(
        ValueError, match='columns "query-id", "corpus-id", "score", found "question"'
    ):
        load_questions(path, qa_format="beir", need_answers=False)
