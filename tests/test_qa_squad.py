"""SQuAD's nested format, five questions, read back by value."""

import copy
import json

import pytest

from rag_finetune.data.qa import load_questions
from rag_finetune.data.qa_fields import context_id
from rag_finetune.data.qa_formats import iter_contexts


def spans(*texts):
    return [{"text": text, "answer_start": 0} for text in texts]


NESTED = {
    "version": "v2.0",
    "data": [
        {
            "title": "Caf%C3%A9_society",
            "paragraphs": [
                {
                    "context": "They met in 1880, or later.",
                    "qas": [
                        {
                            "id": "a",
                            "question": "When?",
                            "answers": spans("1880", "in 1880", "1880"),
                        },
                        {
                            "id": "b",
                            "question": "Where?",
                            "answers": [],
                            "plausible_answers": spans("1880"),
                            "is_impossible": True,
                        },
                    ],
                },
                {"context": "Nobody asked.", "qas": []},
            ],
        },
        {
            "title": "水",
            "paragraphs": [
                {
                    "context": "水是液体。",
                    "qas": [
                        {
                            "id": "c",
                            "question": "什么?",
                            "answers": spans("液体"),
                            "is_impossible": False,
                        },
                        {"id": "d4", "question": "Who?", "answers": spans("水")},
                        {"question": "Which?", "answers": spans("是")},
                    ],
                }
            ],
        },
    ],
}
CAFE = {"title": "Café society", "text": "They met in 1880, or later."}
WATER = {"title": "水", "text": "水是液体。"}


@pytest.fixture(params=["one line", "indented", "windows"])
def nested(request, tmp_path):
    path = tmp_path / "squad.json"
    indent = None if request.param == "one line" else 1
    text = json.dumps(NESTED, indent=indent, ensure_ascii=False)
    if request.param == "windows":
        text = "\ufeff" + text.replace("\n", "\r\n")
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("name", [None, "squad"])
def test_questions_are_read_with_their_paragraph_as_gold(nested, name):
    dataset = load_questions(nested, qa_format=name, keep_unanswerable=True)
    assert dataset["id"][:] == ["a", "b", "c", "d4", "4"]  # the last: its number, from 0
    assert dataset["question"][:] == ["When?", "Where?", "什么?", "Who?", "Which?"]
    assert dataset["answers"][:] == [["1880", "in 1880"], [""], ["液体"], ["水"], ["是"]]
    assert dataset["positive_passages"][:] == [[CAFE], [CAFE], [WATER], [WATER], [WATER]]
    cafe, water = context_id(**CAFE), context_id(**WATER)
    assert dataset["positive_ids"][:] == [[cafe], [cafe], [water], [water], [water]]


def test_unanswerable_questions_are_left_out(nested):
    with pytest.warns(UserWarning, match=r"squad\.json: 1 unanswerable questions were skipped"):
        assert load_questions(nested)["id"][:] == ["a", "c", "d4", "4"]


def test_a_question_with_an_empty_list_of_answers_is_unanswerable(tmp_path):
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(in_question(answers=[])), encoding="utf-8")
    dataset = load_questions(path, keep_unanswerable=True)
    assert dataset["answers"][:] == [["1880", "in 1880"], [""], ["液体"], [""], ["是"]]


def test_every_paragraph_is_a_context_under_the_id_of_its_questions(nested):
    nobody = {"title": "Café society", "text": "Nobody asked."}
    assert list(iter_contexts(nested)) == [
        {"id": context_id(**passage), **passage} for passage in (CAFE, nobody, WATER)
    ]


def damaged(change):
    """The fixture with something changed in its last paragraph or question."""
    nested = copy.deepcopy(NESTED)
    change(nested)
    return nested


def in_question(**values):
    return damaged(lambda nested: nested["data"][1]["paragraphs"][0]["qas"][1].update(values))


def in_paragraph(**values):
    return damaged(lambda nested: nested["data"][1]["paragraphs"][0].update(values))


LAST = "data[1].paragraphs[0]"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            in_question(question=None),
            f'{LAST}.qas[1]: "question" must be a non-empty string, found',
        ),
        (
            in_question(answers="水"),
            f'{LAST}.qas[1]: "answers" must be a non-empty list of strings',
        ),
        (
            in_question(answers=[{}]),
            f'{LAST}.qas[1]: "answers" must be a non-empty list of strings',
        ),
        (in_question(answers=[5]), f'{LAST}.qas[1]: "answers" must be a non-empty list of strings'),
        (
            in_question(id=1.5),
            f'{LAST}.qas[1]: an id in "id" must be a non-empty string or a whole',
        ),
        (in_question(id="c"), f'{LAST}.qas[1]: "id" must differ from row to row, found "c" again'),
        (in_question(is_impossible="no"), f'{LAST}.qas[1]: "is_impossible" must be true or false'),
        (in_question(is_impossible=True), f'{LAST}.qas[1]: expected no "answers" beside "is_impo'),
        (in_paragraph(context=None), f'{LAST}: "context" must be a non-empty string, found null'),
        (in_paragraph(qas={}), f'{LAST}: "qas" must be a list, found an object'),
        (in_paragraph(qas=["x"]), f'{LAST}.qas[0]: expected an object, found the string "x"'),
        ({"data": [{"title": "T"}]}, 'data[0]: expected the key "paragraphs", found "title"'),
        ({"data": ["x"]}, "data[0]: expected an object, found the string"),
    ],
)
def test_damage_is_placed_by_its_path(tmp_path, value, message):
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError) as caught:
        load_questions(path, keep_unanswerable=True)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_answer_says_what_the_file_serves_for(tmp_path):
    nested = damaged(lambda value: value["data"][1]["paragraphs"][0]["qas"][1].pop("answers"))
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(nested))
    with pytest.raises(
        ValueError, match=r'qas\[1\]: expected the key "answers".*`train` needs ans'
    ):
        load_questions(path, keep_unanswerable=True)
    dataset = load_questions(path, keep_unanswerable=True, need_answers=False)
    assert dataset["answers"][3:] == [[], ["是"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", 'expected SQuAD\'s object with "data", a list of articles, found an empty list'),
        (
            '{"question": "q?"}',
            'expected SQuAD\'s object with "data", a list of articles, found the k',
        ),
        ('{"data": {}}', '"data" must be a list, found an object'),
    ],
)
def test_a_file_that_is_not_squads_is_told_what_is_missing(tmp_path, text, message):
    path = tmp_path / "qa.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        load_questions(path, qa_format="squad")
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("name", [None, "squad"])
def test_a_syntax_error_is_named_with_its_line(tmp_path, name):
    lines = json.dumps(NESTED, indent=1).split("\n")
    lines[16] = lines[16].replace('"', "", 1) if '"' in lines[16] else lines[16] + "x"
    path = tmp_path / "squad.json"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"squad\.json:1[678]: expected .*found a syntax error at"):
        load_questions(path, qa_format=name)
