"""Formats with one JSON object a question, five rows each, read back by value."""

import json

import pytest

from rag_finetune.data.qa import load_questions
from rag_finetune.data.qa_fields import context_id
from rag_finetune.data.qa_formats import iter_contexts

QUESTIONS = ["Who?", "Où est-ce?", 'What is "it"?', "什么?", "Why, then?"]
ANSWERS = [["Ada"], ["Paris", "à Paris"], ["O'Brien"], ["水"], ["because", "so"]]


@pytest.fixture(params=["list", "indented", "lines", "windows"])
def written(request, tmp_path):
    """Write rows as a list, as a list over many lines, as JSONL, or as Windows would."""

    def write(rows):
        path = tmp_path / "qa.json"
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        text = {
            "list": json.dumps(rows),
            "indented": json.dumps(rows, indent=4, ensure_ascii=False),
            "lines": lines,
            "windows": "\ufeff" + lines.replace("\n", "\r\n"),
        }[request.param]
        path.write_bytes(text.encode("utf-8"))
        return path

    return write


def rows_of(make):
    return [make(i, QUESTIONS[i], ANSWERS[i]) for i in range(5)]


@pytest.mark.parametrize("name", [None, "json"])
def test_our_own_rows(written, name):
    path = written(
        rows_of(lambda i, q, a: {"id": f"q{i}", "question": q, "answers": a, "positive_ids": [i]})
    )
    dataset = load_questions(path, qa_format=name)
    assert dataset["id"][:] == ["q0", "q1", "q2", "q3", "q4"]
    assert (dataset["question"][:], dataset["answers"][:]) == (QUESTIONS, ANSWERS)
    assert dataset["positive_ids"][:] == [["0"], ["1"], ["2"], ["3"], ["4"]]
    assert dataset["positive_passages"][:] == [[]] * 5


@pytest.mark.parametrize("name", [None, "nq_open"])
def test_nq_open_rows(written, name):
    path = written(rows_of(lambda i, q, a: {"question": q, "answer": a}))
    dataset = load_questions(path, qa_format=name)
    assert dataset["id"][:] == ["0", "1", "2", "3", "4"]
    assert (dataset["question"][:], dataset["answers"][:]) == (QUESTIONS, ANSWERS)


@pytest.mark.parametrize("name", [None, "flashrag"])
def test_flashrag_rows(written, name):
    path = written(
        rows_of(
            lambda i, q, a: {
                "id": f"test_{i}",
                "question": q,
                "golden_answers": a if i else str(a),
                "metadata": {"x": i},
            }
        )
    )
    dataset = load_questions(path, qa_format=name)
    assert dataset["id"][:] == [f"test_{i}" for i in range(5)]
    assert (dataset["question"][:], dataset["answers"][:]) == (QUESTIONS, ANSWERS)


def dpr_row(i, question, answers):
    positive = [
        {"title": f"T{i}", "text": f"text {i}", "score": 1.5, "passage_id": str(i)},
        {"title": None, "text": f"more {i}", "psg_id": 100 + i},
        {"title": "Bare", "text": f"no id {i}"},
    ]
    return {
        "dataset": "nq_dev",
        "question": question,
        "answers": answers,
        "positive_ctxs": positive[: 3 - i % 4],  # the fourth row has none
        "negative_ctxs": [{"title": "N", "text": "far off", "passage_id": "n"}],
        "hard_negative_ctxs": [{"title": "H", "text": f"close {i}", "passage_id": f"h{i}"}],
    }


@pytest.mark.parametrize("name", [None, "dpr"])
def test_dpr_rows(written, name):
    dataset = load_questions(written(rows_of(dpr_row)), qa_format=name)
    assert (dataset["question"][:], dataset["answers"][:]) == (QUESTIONS, ANSWERS)
    bare = [context_id("Bare", f"no id {i}") for i in range(5)]
    assert dataset["positive_ids"][:] == [
        ["0", "100", bare[0]],
        ["1", "101"],
        ["2"],
        [],
        ["4", "104", bare[4]],
    ]
    assert dataset["positive_passages"][1] == [
        {"title": "T1", "text": "text 1"},
        {"title": "", "text": "more 1"},
    ]
    assert dataset["positive_passages"][3] == []


@pytest.mark.parametrize("name", [None, "dpr"])
def test_dpr_contexts_come_once_each_under_the_ids_of_the_questions(written, name):
    path = written(rows_of(dpr_row))
    contexts = {row["id"]: row for row in iter_contexts(path, name)}
    assert contexts["2"] == {"id": "2", "title": "T2", "text": "text 2"}
    assert contexts["n"] == {"id": "n", "title": "N", "text": "far off"}
    assert len(list(iter_contexts(path))) == len(contexts) == 9 + 1 + 5
    questions = load_questions(path)
    assert {i for ids in questions["positive_ids"] for i in ids} <= contexts.keys()


def test_rows_with_a_context_give_it_as_gold_and_as_passage(written):
    rows = rows_of(
        lambda i, q, a: {"question": q, "answers": a, "context": f"text {i % 2}", "title": "T"}
    )
    del rows[4]["context"]
    path = written(rows)
    first, second = context_id("T", "text 0"), context_id("T", "text 1")
    dataset = load_questions(path)
    assert dataset["positive_ids"][:] == [[first], [second], [first], [second], []]
    assert dataset["positive_passages"][0] == [{"title": "T", "text": "text 0"}]
    assert list(iter_contexts(path)) == [
        {"id": first, "title": "T", "text": "text 0"},
        {"id": second, "title": "T", "text": "text 1"},
    ]


def test_rows_as_the_hub_keeps_squad(written):
    rows = rows_of(
        lambda i, q, a: {
            "id": f"s{i}",
            "title": "A_Page",
            "context": "text",
            "question": q,
            "answers": {"text": a if i != 3 else [], "answer_start": [0] * len(a)},
        }
    )
    dataset = load_questions(written(rows), keep_unanswerable=True)
    assert dataset["answers"][:] == [*ANSWERS[:3], [""], ANSWERS[4]]
    assert dataset["positive_passages"][3] == [{"title": "A Page", "text": "text"}]
    assert dataset["positive_ids"][0] == [context_id("A Page", "text")]


GOOD = '{"question": "q?", "answers": ["a"], "positive_ctxs": [], "golden_answers": ["a"]}'


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("dpr", {"answers": ["a"]}, '2: expected the key "positive_ctxs", found "question", "answ'),
        (
            "dpr",
            {"answers": ["a"], "positive_ctxs": {}},
            '2: "positive_ctxs" must be a list, found',
        ),
        (
            "dpr",
            {"answers": ["a"], "positive_ctxs": [{"text": "x"}, {"title": "T"}]},
            '2: positive_ctxs[1]: expected the key "text", found "title". Add it.',
        ),
        (
            "dpr",
            {"answers": ["a"], "positive_ctxs": [{"text": "x", "passage_id": 1.5}]},
            '2: positive_ctxs[0]: an id in "passage_id" must be a non-empty string or a whole numb',
        ),
        (
            "dpr",
            {"positive_ctxs": []},
            '2: expected the key "answers", found "question", "positive',
        ),
        (
            "dpr",
            {"positive_ctxs": [], "answers": "Paris"},
            '2: "answers" must be a non-empty list of strings, found the string "Paris". Write ["P',
        ),
        (
            "nq_open",
            {"answers": ["a"]},
            '2: expected the key "answer", found "question", "answers"',
        ),
        ("nq_open", {"answer": "a"}, '2: "answer" must be a non-empty list of strings, found the '),
        ("flashrag", {"answers": ["a"]}, '2: expected the key "golden_answers", found "question"'),
        (
            "flashrag",
            {"golden_answers": [None]},
            '2: "golden_answers" must be a non-empty list of strings, found null in it.',
        ),
        ("json", {"answers": {"texts": []}}, '2: answers: expected the key "text", found "texts".'),
        (
            "json",
            {"answers": {"text": "a"}},
            '2: answers: "answers" must be a non-empty list of st',
        ),
        (
            "json",
            {"answer": "a", "context": ["x"]},
            '2: "context" must be a non-empty string, foun',
        ),
    ],
)
def test_a_row_that_does_not_fit_its_format_is_named_with_its_key(tmp_path, name, row, message):
    path = tmp_path / "qa.jsonl"
    good = {"dpr": GOOD, "nq_open": '{"question": "p?", "answer": ["a"]}'}.get(name, GOOD)
    path.write_text(good + "\n" + json.dumps({"question": "r?"} | row) + "\n")
    with pytest.raises(ValueError) as caught:
        load_questions(path, qa_format=name)
    assert str(caught.value).startswith(f"{path}:{message}")


def test_one_passage_id_for_two_texts_is_an_error(tmp_path):
    rows = [dpr_row(i, "q?", ["a"]) for i in (0, 1)]
    rows[1]["hard_negative_ctxs"][0]["passage_id"] = "h0"
    path = tmp_path / "qa.json"
    path.write_text("\n".join(map(json.dumps, rows)))
    message = r'json:2: .*the passage id "h0" stands for another title or text further up'
    with pytest.raises(ValueError, match=message):
        list(iter_contexts(path))


def test_questions_without_passages_have_no_contexts(tmp_path):
    path = tmp_path / "qa.json"
    path.write_text('{"question": "q?", "answer": "a"}')
    with pytest.raises(ValueError, match=r'json: expected passages under "context", found none'):
        list(iter_contexts(path))
    with pytest.raises(ValueError, match='the format "nq_open", which has none'):
        list(iter_contexts(path, "nq_open"))


@pytest.mark.parametrize(
    ("name", "found"),
    [("qa.json", "a syntax error"), ("qa.jsonl", "that the line ends too soon")],
)
def test_broken_json_on_line_17_is_placed_there(tmp_path, name, found):
    row = '{"question": "q?", "answers": ["a"]}'
    lines = [row] * 16 + [row[:-3]] + [row] * 3
    text = "\n".join(lines) if name == "qa.jsonl" else "[" + ",\n".join(lines) + "]"
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}:1[78]: expected .* found {found}"):
        load_questions(tmp_path / name)


def test_mixed_encodings_are_placed(tmp_path):
    path = tmp_path / "qa.jsonl"
    rows = ['{"question": "où?", "answer": "à Köln"}\n'] * 2
    path.write_bytes(rows[0].encode() + rows[1].encode("latin-1"))
    with pytest.raises(ValueError, match=r"qa\.jsonl:2: expected UTF-8 text, found the byte 0xf9"):
        load_questions(path)
