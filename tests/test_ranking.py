"""Figures of rankings: worked by hand, and beside trec_eval where pytrec_eval is installed."""

import random
from math import log2

import pytest

from rag_finetune.metrics.ranking import (
    gold_recall_at_k,
    mean_average_precision,
    mean_reciprocal_rank,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from rag_finetune.metrics.retrieval import gold_hits, gold_metrics

# first hits at rank 1, 3, 12 and never; the last two lists are shorter than the deepest k
HITS = [
    [True, False, True],
    [False, False, True] + [False] * 17,
    [False] * 11 + [True],
    [False, False],
]


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


def test_precision_counts_what_is_missing_as_no_hit():
    assert precision_at_k(HITS, 1) == 0.25
    assert precision_at_k(HITS, 3) == pytest.approx((2 / 3 + 1 / 3 + 0 + 0) / 4)
    assert precision_at_k(HITS, 12) == pytest.approx((2 + 1 + 1) / 12 / 4)


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


def test_ndcg_gains_the_grades():
    gold = {"a": 3.0, "b": 1.0, "c": 2.0}
    ideal = 3 + 2 / log2(3) + 1 / 2
    found = [ranked("b", "x", "a")]
    assert ndcg_at_k(found, [gold]) == pytest.approx((1 + 3 / 2) / ideal)
    assert ndcg_at_k(found, [gold], k=1) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("ids", "gold", "expected"),
    [
        (["a"], ["a"], 1.0),
        (["x", "a"], ["a"], 1 / 2),
        ([], ["a"], 0.0),
        (["a", "x", "y", "b"], ["a", "b", "c"], (1 + 2 / 4) / 3),
        (["a#1", "a#2", "b"], ["a", "b"], (1 + 2 / 3) / 2),  # a second piece brings nothing
        (["a#1"], ["a", "a#1"], 1.0),  # one passage may stand for two gold ids
    ],
)
def test_average_precision_worked_by_hand(ids, gold, expected):
    assert mean_average_precision([ranked(*ids)], [gold]) == pytest.approx(expected)


def test_average_precision_up_to_k():
    found = [ranked("a", "x", "b")]
    assert mean_average_precision(found, [["a", "b"]], k=2) == pytest.approx(1 / 2)
    assert mean_average_precision(found, [["a", "b"]], k=3) == pytest.approx((1 + 2 / 3) / 2)


def test_gold_recall_is_the_share_of_gold_ids_found():
    found = [ranked("a#1", "x", "b"), ranked("x")]
    golds = [["a", "b", "c"], ["a"]]
    assert [gold_recall_at_k(found, golds, k) for k in (1, 3)] == pytest.approx([1 / 6, 1 / 3])


def test_average_precision_and_gold_recall_need_a_gold_passage_for_each_question():
    for metric in (mean_average_precision, gold_recall_at_k):
        with pytest.raises(ValueError, match="at least one gold passage a question"):
            metric([ranked("a")], [[]], 5)
        with pytest.raises(ValueError, match="k must be at least 1"):
            metric([ranked("a")], [["a"]], 0)


@pytest.mark.parametrize("metric", [lambda hits: precision_at_k(hits, 5), mean_reciprocal_rank])
def test_no_question_is_an_error_and_no_division_by_zero(metric):
    with pytest.raises(ValueError, match="hits must hold at least one question, found none"):
        metric([])


def test_depth_below_one_is_an_error():
    with pytest.raises(ValueError, match="k must be at least 1, found 0"):
        recall_at_k(HITS, 0)


def random_judgements(draw):
    """Grades of a few of forty passages for each of thirty questions; at least one is above 0."""
    names = [f"d{number}" for number in range(40)]
    return {
        f"q{number}": {draw.choice(names): draw.randint(1, 3)}
        | {name: draw.choice([0, 0, 1, 2, 3]) for name in draw.sample(names, draw.randint(0, 12))}
        | {draw.choice(names): 1}
        for number in range(30)
    }


def random_run(draw):
    """Scores with many ties; some questions find few passages or none."""
    names = [f"d{number}" for number in range(45)]
    return {
        f"q{number}": {
            name: draw.choice([0.5, 1.0, 1.5, 2.25, 3.0, draw.random()])
            for name in draw.sample(names, draw.choice([0, 1, 3, 15, 40]))
        }
        for number in range(30)
    }


@pytest.mark.parametrize("seed", range(10))
def test_the_figures_are_those_of_trec_eval(seed):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    draw = random.Random(seed)
    judgements, run = random_judgements(draw), random_run(draw)
    golds = [{name: g for name, g in row.items() if g > 0} for row in judgements.values()]
    # trec_eval takes equal scores by the ids, the last first
    order = [sorted(run[q].items(), key=lambda pair: pair[::-1], reverse=True) for q in judgements]
    found = [ranked(*(name for name, _ in row)) for row in order]

    def expected(measure, depth=None):
        cut = {q: dict(row[:depth]) for q, row in zip(judgements, order, strict=True) if row}
        scores = pytrec_eval.RelevanceEvaluator(judgements, {measure}).evaluate(cut)
        key = measure.replace(".", "_")
        return sum(row[key] for row in scores.values()) / len(judgements)  # missing ones are 0

    ks = (1, 5, 10, 20)
    wanted = {f"recall@{k}": expected(f"success.{k}") for k in ks}
    wanted |= {f"precision@{k}": expected(f"P.{k}") for k in ks}
    wanted |= {f"gold_recall@{k}": expected(f"recall.{k}") for k in ks}
    wanted |= {"mrr@10": expected("recip_rank", 10), "ndcg@10": expected("ndcg_cut.10")}
    wanted |= {"map@20": expected("map_cut.20")}
    assert gold_metrics(found, golds, ks) == pytest.approx(wanted, abs=1e-9)
    assert mean_average_precision(found, golds) == pytest.approx(expected("map"), abs=1e-9)
    hits = gold_hits(found, golds)
    assert mean_reciprocal_rank(hits, 99) == pytest.approx(expected("recip_rank"), abs=1e-9)
