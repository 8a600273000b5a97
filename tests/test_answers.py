from pathlib import Path

import pytest

from rag_finetune.data.passages import load_passages
from rag_finetune.data.qa import load_questions
from rag_finetune.metrics.answers import answers_in_corpus, has_answer

SQUAD = Path(__file__).parents[2] / "shared" / "data" / "squad"


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("It began in October 1973.", "october 1973", True),
        ("It began in October, 1973.", "October 1973", False),  # the comma is a token
        ("The United States' oil", "United States", True),
        ("a theatre", "the", False),  # whole tokens only
        ("1973-74", "1973", True),
        ("It cost $12 then", "$12", True),
        ("It cost $ 12 then", "$12", True),  # white space between tokens does not count
        ("It cost 12 then", "$12", False),
        ("snake_case", "case", True),  # an underscore is no letter
        ("Ko\u0308ln", "K\u00f6ln", True),  # one letter written in two ways
        ("Koln", "Köln", False),
        ("ΑΘΗΝΑ", "αθηνα", True),
        ("東京都", "東京", False),  # a run of letters is one token
        ("x\u00adray", "x ray", True),  # a soft hyphen is a format character: skipped
        ("x²", "x²", True),
        ("anything", "", False),
        ("any thing", " \t", False),
        ("", "a", False),
    ],
)
def test_answers_match_token_by_token_as_in_dpr(text, answer, found):
    assert has_answer(text, [answer]) is found


def test_any_answer_is_enough():
    assert has_answer("Paris is a town", ["Rome", "paris"])
    assert not has_answer("Paris is a town", [])


def test_corpus_is_searched_for_each_question():
    texts = ["New York is big", "So is York", "The New  York-Times"]
    answers = [["New York"], ["york times"], ["Times", "Kiel"], ["Kiel"], [""], ["new york"]]
    assert answers_in_corpus(texts, answers) == [True, False, True, False, False, True]


def test_corpus_search_stops_when_everything_is_found():
    texts = iter(["Paris", "Rome", "Oslo"])
    assert answers_in_corpus(texts, [["Rome", "Paris"], ["Rome"]]) == [True, True]
    assert list(texts) == ["Oslo"]


def test_corpus_search_without_questions_is_an_error():
    with pytest.raises(ValueError, match="answers must hold at least one question, found none"):
        answers_in_corpus(["Paris"], [])


@pytest.mark.skipif(not SQUAD.exists(), reason="the SQuAD passages are not there")
def test_corpus_search_equals_asking_passage_by_passage_on_squad():
    texts = load_passages(SQUAD / "passages.tsv", 0)["text"][:]
    answers = load_questions(SQUAD / "train.json")["answers"][:200]
    slow = [any(has_answer(text, golds) for text in texts) for golds in answers]
    assert answers_in_corpus(texts, answers) == slow
    assert sum(slow) >= 195
