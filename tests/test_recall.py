import numpy as np
import pytest

from rag_finetune.index.recall import (
    BLOCK_ROWS,
    QUESTIONS,
    RecallSample,
    Tuned,
    advice,
    draw_questions,
    exact_scores,
    tune,
)


def test_exact_scores_are_the_largest_inner_products_over_all_blocks():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2 * BLOCK_ROWS + 3, 4)).astype(np.float32)
    vectors[[0, BLOCK_ROWS, -1]] *= 100  # the best stand in different blocks
    questions = rng.normal(size=(6, 4)).astype(np.float32)
    expected = -np.sort(-(questions @ vectors.T), axis=1)[:, :4]
    np.testing.assert_allclose(exact_scores(vectors, questions, 4), expected, rtol=1e-5)


def test_exact_scores_where_the_last_block_holds_fewer_than_k():
    vectors = np.arange(BLOCK_ROWS + 1, dtype=np.float32)[:, None]
    best = exact_scores(vectors, np.ones((1, 1), np.float32), 3)
    assert best.tolist() == [[BLOCK_ROWS, BLOCK_ROWS - 1, BLOCK_ROWS - 2]]


def test_recall_counts_the_rows_among_the_five_nearest():
    vectors = np.arange(10, dtype=np.float32)[:, None]  # the nearest to any are rows 9, 8, 7, 6, 5
    sample = RecallSample(vectors, np.ones((2, 1), np.float32))
    assert sample.recall(np.array([[9, 8, 7, 6, 5], [5, 6, 7, 8, 9]])) == 1
    assert sample.recall(np.array([[9, 8, 7, 6, 4], [9, 3, 2, 1, 0]])) == 0.5
    assert sample.recall(np.array([[9, 8, 7, 6, -1], [-1, -1, -1, -1, -1]])) == 0.4


def test_either_of_two_equal_passages_will_do():
    vectors = np.array([[3], [1], [1], [0]] * 2, dtype=np.float32)
    sample = RecallSample(vectors, np.ones((1, 1), np.float32))
    # Rows 0 and 4 hold 3; rows 1, 2, 5, 6 hold 1, and three of these four belong to the five best.
    assert sample.recall(np.array([[0, 4, 1, 2, 5]])) == 1
    assert sample.recall(np.array([[0, 4, 2, 5, 6]])) == 1
    assert sample.recall(np.array([[0, 4, 2, 5, 7]])) == 0.8


def test_fewer_than_five_vectors_are_all_to_be_found():
    sample = RecallSample(np.eye(3, dtype=np.float32), np.ones((1, 3), np.float32))
    assert sample.k == 3
    assert sample.recall(np.array([[2, 0, 1]])) == 1


def test_questions_are_drawn_by_the_seed_and_lie_beside_the_passages():
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    questions = draw_questions(vectors, seed=3)
    assert (questions.shape, questions.dtype) == ((QUESTIONS, 8), np.float32)
    assert np.array_equal(questions, draw_questions(vectors, seed=3))
    assert not np.array_equal(questions, draw_questions(vectors, seed=4))
    # But for a draw of the same passage twice.
    assert (questions[:, None] == vectors).all(-1).sum() < 5


def recalls(*values):
    efforts = [{"nprobe": 2**step} for step in range(len(values))]
    return efforts, lambda parameters: values[efforts.index(parameters)]


def test_tuning_stops_at_the_first_effort_that_reaches_the_target():
    assert tune(*recalls(0.5, 0.969, 0.97, 0.99)) == Tuned({"nprobe": 4}, 0.97, True)


def test_tuning_short_of_the_target_takes_the_least_that_is_about_the_best():
    assert tune(*recalls(0.5, 0.6, 0.695, 0.7, 0.7)) == Tuned({"nprobe": 4}, 0.695, False)
    assert tune(*recalls(0.5, 0.6, 0.7)) == Tuned({"nprobe": 4}, 0.7, True)


def test_an_index_without_search_parameters_is_measured_once():
    assert tune([{}], lambda parameters: 0.3) == Tuned({}, 0.3, True)


@pytest.mark.parametrize(
    ("tuned", "remedy"),
    [
        (Tuned({"nprobe": 4}, 0.7, True), 'Raise nprobe under "search_parameters" in manifest'),
        (Tuned({"nprobe": 4}, 0.7, False), "Use a type that keeps more of each vector"),
        (Tuned({}, 0.7, True), "Use a type that keeps more of each vector"),
    ],
)
def test_advice_names_what_may_help(tuned, remedy):
    said = advice("IVF8,Flat", tuned)
    assert said.startswith(
        f"IVF8,Flat: finds 70.0% of the 5 nearest passages, less than 90%. {remedy}"
    )
