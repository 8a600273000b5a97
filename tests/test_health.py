import math
import warnings

import numpy as np
import pytest

from rag_finetune.metrics.health import ADVISED, collapses, retrieval_health

HEALTHY = {"distinct_passages": 0.6, "top1_frequency": 0.1, "doc_entropy": 0.7}


def test_figures_worked_by_hand():
    retrieved = [["a", "b"], ["a", "c"], ["d", "a"], ["a", "b"]]
    thirds = math.log(3)  # p(z|x) = 3/4, 1/4
    scores = np.array([[thirds, 0], [5, 5], [700, -700], [1000 + thirds, 1000]])
    quarter = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4)) / math.log(2)
    assert retrieval_health(retrieved, scores, n_passages=100) == {
        "distinct_passages": 4 / 8,
        "top1_frequency": 3 / 4,
        "doc_entropy": pytest.approx((quarter + 1 + 0 + quarter) / 4),
    }


def test_distinct_passages_are_a_share_of_what_there_could_be():
    retrieved, scores = [["a", "b"]] * 3, np.zeros((3, 2))
    assert retrieval_health(retrieved, scores, 1000)["distinct_passages"] == 2 / 6
    assert retrieval_health(retrieved, scores, 4)["distinct_passages"] == 2 / 4
    assert retrieval_health(retrieved, scores, 2)["distinct_passages"] == 1


def test_one_passage_a_question_has_no_entropy():
    assert retrieval_health([["a"], ["b"]], np.array([[1.0], [2.0]]), 9) == {
        "distinct_passages": 1,
        "top1_frequency": 1 / 2,
    }


def test_no_passage_counts_neither_as_one_nor_in_the_entropy():
    retrieved = [["a", "", ""], ["b", "a", ""]]
    scores = np.array([[4, -np.inf, -np.inf], [7, 7, -np.inf]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        health = retrieval_health(retrieved, scores, 100)
    assert health["distinct_passages"] == 2 / 6
    assert health["doc_entropy"] == pytest.approx((0 + math.log(2)) / 2 / math.log(3))


def test_extreme_scores_stay_finite():
    scores = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entropy = retrieval_health([["a", "b", "c"]] * 2, scores, 9)["doc_entropy"]
    assert entropy == pytest.approx(1 / 2)


def test_no_question_is_an_error():
    with pytest.raises(ValueError, match="needs at least one question, found none"):
        retrieval_health([], np.zeros((0, 5)), 9)


def test_a_healthy_retriever_is_not_warned_about():
    assert collapses(HEALTHY, 1000) == collapses(HEALTHY, 1000, HEALTHY) == {}
    assert collapses({"distinct_passages": 1.0, "top1_frequency": 0.05}, 20) == {}


@pytest.mark.parametrize(
    ("kind", "change", "message", "remedy"),
    [
        ("same first", {"top1_frequency": 0.51}, "51% of the questions retrieve the same", "Lower"),
        ("few", {"distinct_passages": 0.049}, "only 4.9% of the passages that could", "Lower"),
        ("one", {"doc_entropy": 0.009}, "p(z|x) lies on one passage", "a smaller --scale"),
        ("flat", {"doc_entropy": 0.951}, "p(z|x) is nearly flat (0.951", "a larger --scale"),
    ],
)
def test_each_kind_of_collapse_is_named_with_what_to_try(kind, change, message, remedy):
    found = collapses(HEALTHY | change, 20)
    assert list(found) == [kind]
    assert found[kind].startswith(message)
    assert remedy in found[kind]


ALL = ["question_encoder", "context_encoder", "generator"]
RATES = "ower --learning_rate_question_encoder and --learning_rate_context_encoder"
APART = "--retriever_loss contrastive"


@pytest.mark.parametrize(
    ("change", "learning", "losses", "said", "unsaid"),
    [
        ({"top1_frequency": 0.51}, ALL, ADVISED, [RATES, "leave question", APART], []),
        ({"top1_frequency": 0.51}, ALL[:2], ["lsr"], [RATES], ["--trainable", "_loss"]),
        ({"top1_frequency": 0.51}, ALL[1:2], ADVISED, ["_rate_context", APART], ["_rate_question"]),
        ({"top1_frequency": 0.51}, ALL[2:], ADVISED, ["Neither encoder learns"], ["_rate", "loss"]),
        ({"doc_entropy": 0.009}, ALL, ADVISED, ["smaller --scale, l" + RATES, "_loss"], []),
        ({"doc_entropy": 0.009}, ALL[2:], ADVISED, ["smaller --scale."], ["_rate", "_loss"]),
        (
            {"doc_entropy": 0.951},
            ALL,
            ADVISED,
            [APART + " (with gold passages) or lsr", "larger --scale or add"],
            [],
        ),
        ({"doc_entropy": 0.951}, ALL[:1], ["lsr"], ["--retriever_loss lsr,"], ["contrastive"]),
        ({"doc_entropy": 0.951}, ALL[2:], ADVISED, ["larger --scale."], ["_loss", "learn little"]),
    ],
)
def test_what_is_advised_is_what_the_run_can_do(change, learning, losses, said, unsaid):
    [message] = collapses(HEALTHY | change, 20, learning=learning, losses=losses).values()
    assert all(words in message for words in said), message
    assert not any(words in message for words in unsaid), message


def test_variety_that_falls_in_a_run_is_named_before_it_is_gone():
    earlier = HEALTHY | {"distinct_passages": 0.8}
    found = collapses(HEALTHY | {"distinct_passages": 0.39}, 20, earlier)
    assert list(found) == ["fallen"]
    assert "retrieve 39.0% of the passages that they could, and 80.0% earlier" in found["fallen"]
    assert collapses(HEALTHY | {"distinct_passages": 0.41}, 20, earlier) == {}
    assert collapses(HEALTHY | {"distinct_passages": 0.39}, 19, earlier) == {}
    assert list(collapses(HEALTHY | {"distinct_passages": 0.04}, 20, earlier)) == ["few"]


def test_few_questions_say_nothing_about_variety():
    collapsed = {"distinct_passages": 0.01, "top1_frequency": 1.0, "doc_entropy": 0.0}
    assert len(collapses(collapsed, 19)) == 1
    assert len(collapses(collapsed, 20)) == 3


def test_where_nothing_is_found_there_is_no_commonest_passage():
    scores = np.array([[0.0, -np.inf]] * 30)
    health = retrieval_health([["", ""]] * 30, scores, 9)
    assert (health["distinct_passages"], health["top1_frequency"]) == (0, 0)
