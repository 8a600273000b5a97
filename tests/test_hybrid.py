"""Fusion of two lists, worked by hand."""

import numpy as np
import pytest

from rag_finetune.retrieval.hybrid import reciprocal_rank_fusion, weighted_fusion


def test_ranks_are_added_as_reciprocals():
    first, second = np.array([[7, 3, 5]]), np.array([[3, 9, -1]])
    scores, rows = reciprocal_rank_fusion(first, second, 5)
    # 3: 1/62 + 1/61; 7: 1/61; 9: 1/62; 5: 1/63; each list counts by half.
    assert rows.tolist() == [[3, 7, 9, 5, -1]]
    expected = [(1 / 62 + 1 / 61) / 2, 1 / 122, 1 / 124, 1 / 126, -np.inf]
    assert scores[0] == pytest.approx(expected)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)


def test_of_equal_scores_that_which_is_higher_in_the_first_list_comes_first():
    _, rows = reciprocal_rank_fusion(np.array([[9, 1]]), np.array([[2, 8]]), 4)
    assert rows.tolist() == [[9, 2, 1, 8]]
    _, rows = reciprocal_rank_fusion(np.array([[9, 1]]), np.array([[1, 9]]), 2)
    assert rows.tolist() == [[9, 1]]


def test_a_weight_of_one_leaves_the_words_and_of_none_the_vectors():
    first, second = np.array([[4, 5, 6]]), np.array([[6, 7, 8]])
    assert reciprocal_rank_fusion(first, second, 3, 1.0)[1].tolist() == [[6, 7, 8]]
    assert reciprocal_rank_fusion(first, second, 3, 0.0)[1].tolist() == [[4, 5, 6]]


def test_fusion_equals_a_plain_loop():
    draw = np.random.default_rng(0)
    first = np.array([draw.permutation(40)[:20] for _ in range(30)])
    second = np.array([draw.permutation(40)[:15] for _ in range(30)])
    second[draw.random(second.shape) < 0.1] = -1
    scores, rows = reciprocal_rank_fusion(first, second, 10, 0.3)
    for question in range(30):
        sums = {}
        for ranked, weight in ((first, 0.7), (second, 0.3)):
            for rank, row in enumerate(ranked[question].tolist(), start=1):
                if row >= 0:
                    sums[row] = sums.get(row, 0.0) + weight / (60 + rank)
        best = sorted(sums, key=lambda row: -round(sums[row], 12))[:10]  # ties as they came
        assert rows[question].tolist() == best
        assert scores[question] == pytest.approx([sums[row] for row in best])


def test_scores_are_normalised_and_added_by_weight():
    rows = np.array([[1, 2, 3]])
    near, alike = np.array([[10.0, 20.0, 15.0]]), np.array([[4.0, 0.0, 3.0]])
    # by vectors 0, 1, 0.5; by words 1, 0, 0.75
    scores, found = weighted_fusion(rows, near, alike, 3, 0.4)
    assert found.tolist() == [[3, 2, 1]]
    assert scores[0] == pytest.approx([0.6 * 0.5 + 0.4 * 0.75, 0.6, 0.4])


def test_candidates_may_repeat_and_be_missing():
    rows = np.array([[5, -1, 5, 2], [-1, -1, -1, -1]])
    near = np.array([[1.0, 0.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    scores, found = weighted_fusion(rows, near, near * 0, 3, 0.5)
    assert found.tolist() == [[2, 5, -1], [-1, -1, -1]]
    assert scores[0, :2] == pytest.approx([0.5, 0.0])
