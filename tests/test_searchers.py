import numpy as np
import pytest
import tiny_rag

from rag_finetune.retrieval import searchers
from rag_finetune.retrieval.searchers import DenseSearcher

QUESTIONS = [fact["question"] for fact in tiny_rag.facts()[:3]]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return tiny_rag.tiny_index(tmp_path_factory.mktemp("searchers") / "index")


def test_a_dense_search_is_that_of_the_index_by_the_questions_vectors(index):
    encoder = tiny_rag.context_encoder(seed=2)
    searcher = DenseSearcher(encoder, index)
    scores, rows = searcher.search(QUESTIONS, 4)
    expected, expected_rows = index.search(encoder.encode(QUESTIONS), 4)
    assert (rows == expected_rows).all() and (scores == expected).all()
    assert searcher.search(QUESTIONS[:1], 99)[1].shape == (1, 20)  # all there are


def test_scores_of_given_passages_are_those_of_the_search(index):
    searcher = DenseSearcher(tiny_rag.context_encoder(seed=2), index)
    scores, rows = searcher.search(QUESTIONS, 4)
    assert np.allclose(searcher.scores_at(QUESTIONS, rows), scores, atol=1e-5)
    assert searcher.scores_at(QUESTIONS[:1], np.array([[-1]])).tolist() == [[0.0]]


def test_few_vectors_are_held_at_once_and_the_scores_are_the_same(index, monkeypatch):
    searcher = DenseSearcher(tiny_rag.context_encoder(seed=2), index)
    rows = np.array([[0, 3, 5], [1, -1, 2], [7, 7, -1]])
    expected = searcher.scores_at(QUESTIONS, rows)
    sizes, read = [], index.vectors_at
    monkeypatch.setattr(index, "vectors_at", lambda rows: sizes.append(rows.size) or read(rows))
    monkeypatch.setattr(searchers, "VALUES_PER_BLOCK", 2 * 3 * 16)
    assert (searcher.scores_at(QUESTIONS, rows) == expected).all()
    assert sizes == [6, 3]


def test_an_encoder_of_another_dimension_is_refused(index):
    with pytest.raises(ValueError, match="dimension"):
        DenseSearcher(tiny_rag.context_encoder(width=8), index)
