from math import log2
from pathlib import Path

import pytest

from rag_finetune.data.passages import load_passages
from rag_finetune.data.qa import load_questions
from rag_finetune.metrics.retrieval import (
    answer_ranks,
    answer_recall,
    answers_in_corpus,
    gold_hits,
    has_answer,
    mean_reciprocal_rank,
    ndcg_at_k,
    recall_at_k,
    retrieval_metrics,
)

SQUAD = Path(__file__).parents[2] / "shared" / "data" / "squad"

# first hits at rank 1, 3, 12 and never; the last two lists are shorter than the deepest k
HITS = [
    [True, False, True],
    [False, False, True] + [False] * 17,
    [False] * 11 + [True],
    [False, False],
]


def test_hits_count_ids_and_documents():
    retrieved = [[("a#1", "a"), ("b", "b"), ("c#2", "c")], [("a#1", "a")], []]
    positive_ids = [["c#2", "a"], ["a#2"], ["a"]]
    assert gold_hits(retrieved, positive_ids) == [[True, False, True], [False], []]


def test_hits_need_positive_ids_for_each_question():
    with pytest.raises(ValueError, match="one entry a question, found 1 and 2"):
        gold_hits([[]], [["a"], ["b"]])


def test_recall_counts_questions_with_a_hit_in_time():
    assert [recall_at_k(HITS, k) for k in (1, 2, 3, 11, 12, 100)] == [
        0.25,
        0.25,
        0.5,
        0.5,
        0.75,
        0.75,
    ]


def test_reciprocal_rank_takes_the_first_hit_within_k():
    assert mean_reciprocal_rank(HITS) == pytest.approx((1 + 1 / 3) / 4)
    assert mean_reciprocal_rank(HITS, k=12) == pytest.approx((1 + 1 / 3 + 1 / 12) / 4)


def test_retrieval_metrics_are_named_by_depth():
    assert retrieval_metrics(HITS) == {
        "recall@1": 0.25,
        "recall@5": 0.5,
        "recall@10": 0.5,
        "recall@20": 0.75,
        "mrr@10": pytest.approx(1 / 3),
    }


def ranked(*ids):
    """Passages with these ids, each a document of its own; `a#1` is a piece of `a`."""
    return [(name, name.partition("#")[0]) for name in ids]


@pytest.mark.parametrize(
    ("ids", "gold", "expected"),
    [
        (["a", "x"], ["a"], 1.0),
        (["x", "a"], ["a"], 1 / log2(3)),
        (["x", "y"], ["a"], 0.0),
        ([], ["a"], 0.0),
        # gains at ranks 1 and 4; three gold passages would gain at 1, 2 and 3
        (["a", "x", "y", "b"], ["a", "b", "c"], (1 + 1 / log2(5)) / (1 + 1 / log2(3) + 1 / 2)),
        # a second piece of a gold document gains nothing
        (["a#1", "a#2", "b"], ["a", "b"], (1 + 1 / 2) / (1 + 1 / log2(3))),
        (["a#1", "a#2"], ["a#2"], 1 / log2(3)),
        ([*"uvwxyz", "a", "s", "t", "r", "b"], ["a", "b"], 1 / 3 / (1 + 1 / log2(3))),  # rank 7
    ],
)
def test_ndcg_worked_by_hand(ids, gold, expected):
    assert ndcg_at_k([ranked(*ids)], [gold]) == pytest.approx(expected)


def test_ndcg_is_a_mean_over_questions_up_to_k():
    found = [ranked("a"), ranked("x", "a")]
    assert ndcg_at_k(found, [["a"], ["a"]]) == pytest.approx((1 + 1 / log2(3)) / 2)
    assert ndcg_at_k(found, [["a"], ["a"]], k=1) == 0.5
    # more gold passages than k: the best ranking has k of them
    assert ndcg_at_k([ranked("a", "b")], [["a", "b", "c"]], k=2) == pytest.approx(1)


def test_ndcg_needs_a_gold_passage_for_each_question():
    with pytest.raises(ValueError, match="at least one gold passage a question"):
        ndcg_at_k([ranked("a")], [[]])
    with pytest.raises(ValueError, match="one entry a question, found 1 and 2"):
        ndcg_at_k([[]], [["a"], ["b"]])
    with pytest.raises(ValueError, match="k must be at least 1"):
        ndcg_at_k([[]], [["a"]], k=0)
    with pytest.raises(ValueError, match="at least one question"):
        ndcg_at_k([], [])


@pytest.mark.parametrize("metric", [retrieval_metrics, mean_reciprocal_rank])
def test_no_question_is_an_error_and_no_division_by_zero(metric):
    with pytest.raises(ValueError, match="hits must hold at least one question, found none"):
        metric([])


def test_depth_below_one_is_an_error():
    with pytest.raises(ValueError, match="k must be at least 1, found 0"):
        recall_at_k(HITS, 0)


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


def test_answer_ranks_mark_each_passage():
    texts = [["Rome and Bonn", "Paris", "in Paris"], []]
    answers = [["Paris", "Bonn"], ["Oslo"]]
    assert answer_ranks(texts, answers) == [[True, True, True], []]
    assert answer_ranks([["Paris"], ["Paris"]], answers) == [[True], [False]]


def test_answer_recall_is_named_by_depth():
    texts = [["Rome", "Paris"], ["Oslo"], ["Rome"]]
    assert answer_recall(texts, [["Paris"], ["Oslo"], ["Kiel"]], ks=(1, 2)) == {
        "answer_recall@1": pytest.approx(1 / 3),
        "answer_recall@2": pytest.approx(2 / 3),
    }


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
