"""The fields of a question."""

import hashlib

import pytest

from rag_finetune.data.qa_fields import (
    Reading,
    context_id,
    page_title,
    parse_list,
    read_answers,
    read_id,
    read_passage,
    require_key,
)

BOTH = ("answers", "answer")


def test_the_id_of_a_passage_follows_from_title_and_text():
    assert context_id("T", "x") == hashlib.sha256(b"T\0x").hexdigest()[:16]
    assert len({context_id("a", "bc"), context_id("ab", "c"), context_id("", "abc")}) == 3


def test_the_name_of_a_page_becomes_a_title():
    assert page_title("Beyonc%C3%A9_Knowles") == "Beyoncé Knowles"
    assert page_title("100% of it") == "100% of it"


@pytest.mark.parametrize(
    ("text", "strings"),
    [
        ("['a', \"b's\"]", ["a", "b's"]),
        ('["caf\\u00e9"]', ["café"]),
        (" ('a', 'b') ", ["a", "b"]),
        ("[]", []),
        ("['a', 5]", []),
        ("['a'", []),
        ("[sic] he said", []),
        ("[__import__('os')]", []),
        ("[" * 10_000, []),
        ("'a'", []),
        ("", []),
    ],
)
def test_a_list_as_python_writes_it_is_parsed_and_never_run(text, strings):
    assert parse_list(text) == strings


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"answers": ["a", "b"]}, ["a", "b"]),
        ({"answers": "['a', 'b']"}, ["a", "b"]),
        ({"answer": "a"}, ["a"]),
        ({"answer": ["a", "b"]}, ["a", "b"]),
        ({"answer": "['a', 'b']"}, ["a", "b"]),
        ({"answer": "[1] is the source"}, ["[1] is the source"]),
        ({"answer": " a "}, [" a "]),
    ],
)
def test_answers_are_read_however_they_are_written(row, answers):
    assert read_answers(row, BOTH, "f:1", Reading()) == answers


def test_a_near_miss_of_a_key_is_guessed_and_no_remedy_for_another_fault_given():
    message = (
        r'f:1: expected the key "answers", .* Rename "answrs" to "answers" if that is meant\.$'
    )
    with pytest.raises(ValueError, match=message):
        read_answers({"answrs": []}, BOTH, "f:1", Reading())


def test_unread_answers_are_noted_where_none_are_needed():
    reading = Reading(need_answers=False)
    assert read_answers({"answers": {"a": 1}}, BOTH, "f:3", reading) == []
    assert read_answers({"answers": None}, BOTH, "f:4", reading) == []
    assert read_answers({}, BOTH, "f:5", reading) == []
    [message] = reading.unread
    assert message.startswith('f:3: "answers" must be a non-empty list of strings, found an object')


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x", 'f:1: expected an object with "title" and "text", found the string "x"'),
        ({"title": "T"}, 'f:1: expected the key "text", found "title"'),
        ({"text": " "}, 'f:1: "text" must be a non-empty string, found an empty string'),
        ({"text": None}, 'f:1: "text" must be a non-empty string, found null'),
        ({"text": "x", "title": 5}, 'f:1: "title" must be a string, found the number 5'),
    ],
)
def test_a_damaged_passage_is_named(row, message):
    with pytest.raises(ValueError) as caught:
        read_passage(row, "text", "f:1")
    assert str(caught.value).startswith(message)


def test_a_passage_may_lack_its_title():
    assert read_passage({"text": "x"}, "text", "f:1") == {"title": "", "text": "x"}
    assert read_passage({"text": "x", "title": None}, "text", "f:1") == {"title": "", "text": "x"}


def test_the_first_id_that_is_given_is_taken():
    assert read_id({"psg_id": 7}, "f:1", ("passage_id", "psg_id")) == "7"
    assert read_id({"passage_id": None}, "f:1", ("passage_id", "psg_id")) is None


def test_a_key_with_a_meaning_of_its_own_is_no_near_miss():
    with pytest.raises(ValueError, match=r'"positive_ctxs", found "negative_ctxs"\. Add it\.$'):
        require_key("positive_ctxs", {"negative_ctxs": []}, "f:1")
