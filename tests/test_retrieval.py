import pytest

from rag_finetune.metrics.retrieval import (
    answer_ranks,
    answer_recall,
    gold_hits,
    gold_metrics,
    retrieval_metrics,
)

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


def test_retrieval_metrics_are_named_by_depth():
    assert retrieval_metrics(HITS) == {
        "recall@1": 0.25,
        "recall@5": 0.5,
        "recall@10": 0.5,
        "recall@20": 0.75,
        "precision@1": 0.25,
        "precision@5": pytest.approx(3 / 5 / 4),
        "precision@10": pytest.approx(3 / 10 / 4),
        "precision@20": pytest.approx(4 / 20 / 4),
        "mrr@10": pytest.approx(1 / 3),
    }


def test_gold_metrics_are_all_that_gold_passages_allow():
    retrieved = [[("x", "x"), ("a#1", "a"), ("b", "b")], [("y", "y")]]
    metrics = gold_metrics(retrieved, [["a", "b"], ["c"]], ks=(2,))
    assert metrics == pytest.approx(
        {
            "recall@2": 1 / 2,
            "precision@2": 1 / 4,
            "mrr@10": 1 / 4,
            "gold_recall@2": 1 / 4,
            "ndcg@10": (0.6309298 + 1 / 2) / 1.6309298 / 2,
            "map@20": (1 / 2 + 2 / 3) / 2 / 2,
        },
        abs=1e-6,
    )


def test_no_question_is_an_error_and_no_division_by_zero():
    with pytest.raises(ValueError, match="hits must hold at least one question, found none"):
        retrieval_metrics([])


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
