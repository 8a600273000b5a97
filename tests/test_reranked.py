import numpy as np
import pytest
import tiny_rag
from tiny_reranker import save_reranker

from rag_finetune.retrieval.rerank import load_reranker, passage_text
from rag_finetune.retrieval.reranked import RerankedSearcher

QUESTIONS = [fact["question"] for fact in tiny_rag.facts()[:3]]


class ByRow:
    """A searcher that finds the passages in the order of the index, and no more than `most`."""

    by_words = False
    retrieval = "the way"

    def __init__(self, index, most=20):
        self.index, self.most = index, most

    def search(self, vectors, questions, k):
        rows = np.tile(np.arange(k), (len(questions), 1))
        rows[rows >= self.most] = -1
        return np.where(rows < 0, -np.inf, -rows).astype(np.float32), rows


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return tiny_rag.tiny_index(tmp_path_factory.mktemp("reranked") / "index")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return load_reranker(save_reranker(tmp_path_factory.mktemp("reranker")))


def logits_of(reranker, question, rows):
    facts = tiny_rag.facts()
    return reranker.score([(question, passage_text(facts[row])) for row in rows])


def test_the_best_of_the_first_passages_are_kept_in_the_rerankers_order(index, reranker):
    searcher = RerankedSearcher(ByRow(index), reranker, 8)
    scores, rows = searcher.search(None, QUESTIONS, 3)
    assert scores.shape == rows.shape == (3, 3) and scores.dtype == np.float32
    for question, found, logits in zip(QUESTIONS, rows, scores, strict=True):
        expected = logits_of(reranker, question, range(8))
        assert found.tolist() == np.argsort(-expected, kind="stable")[:3].tolist()
        assert logits == pytest.approx(np.sort(expected)[::-1][:3], abs=1e-5)
    assert rows.tolist() != [[0, 1, 2]] * 3


def test_passages_past_those_that_it_looks_at_follow_as_they_were_found(index, reranker):
    scores, rows = RerankedSearcher(ByRow(index), reranker, 4).search(None, QUESTIONS, 7)
    for found, falling in zip(rows.tolist(), scores, strict=True):
        assert sorted(found[:4]) == [0, 1, 2, 3] and found[4:] == [4, 5, 6]
        assert (np.diff(falling) < 0).all()


@pytest.mark.parametrize("top", [4, 10])
def test_what_was_not_found_stays_last(index, reranker, top):
    scores, rows = RerankedSearcher(ByRow(index, most=3), reranker, top).search(None, QUESTIONS, 6)
    for found, falling in zip(rows.tolist(), scores, strict=True):
        assert sorted(found[:3]) == [0, 1, 2] and found[3:] == [-1] * 3
        assert np.isfinite(falling[:3]).all() and (falling[3:] == -np.inf).all()


def test_no_more_is_looked_at_than_there_is(index, reranker):
    _, rows = RerankedSearcher(ByRow(index), reranker, 500).search(None, QUESTIONS, 20)
    assert [sorted(found) for found in rows.tolist()] == [list(range(20))] * 3


def test_it_needs_texts_and_is_the_searcher_otherwise(index, reranker):
    searcher = RerankedSearcher(ByRow(index), reranker)
    assert searcher.by_words is True
    assert searcher.retrieval == "the way" and searcher.index is index
    with pytest.raises(ValueError, match="rerank_top must be at least 2, found 1"):
        RerankedSearcher(ByRow(index), reranker, 1)
