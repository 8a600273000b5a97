import numpy as np
import pytest

from rag_finetune.retrieval.near_gold import ceilings, near_gold


class Scores:
    """A search whose score of a row is the same for every question."""

    def __init__(self, *scores: float) -> None:
        self.scores = np.array(scores, np.float32)

    def scores_at(self, questions, rows):
        assert rows.shape[0] == len(questions)
        return np.where(rows < 0, 0.0, self.scores[rows]).astype(np.float32)


def test_a_candidate_is_near_where_any_search_says_so():
    x, y = Scores(10.0, 9.5, 1.0, 1.0), Scores(5.0, 0.0, 4.5, 1.0)
    rows = [[1, 2, 3]]
    assert near_gold([x], ["?"], [[0]], rows, margin=1.0) == [{1}]
    assert near_gold([x, y], ["?"], [[0]], rows, margin=1.0) == [{1, 2}]
    assert near_gold([x, y], ["?"], [[0]], rows) == [set()]


def test_each_question_has_its_own_gold_the_best_of_several():
    search = Scores(10.0, -3.0, 8.0, 2.0)
    found = near_gold([search], ["a", "b", "c"], [[0, 1], [1], [2]], [[2], [], [3, 0]], margin=1.0)
    assert found == [set(), set(), {0}]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [((1.0, None), [9, -11]), ((None, 0.9), [9, -11]), ((3.0, 0.9), [7, -13])],
)
def test_the_lower_ceiling_counts_also_below_zero(rules, expected):
    assert ceilings(np.array([10.0, -10.0]), *rules) == pytest.approx(expected)
