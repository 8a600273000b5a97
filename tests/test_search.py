"""An index searched by vectors, by words, and by both."""

import numpy as np
import pytest
import tiny_rag
import tiny_words
from tiny_tokenizers import PLAIN, byte_level_bpe, unigram, word_piece

from rag_finetune.encoders.prefix import with_prefix
from rag_finetune.retrieval.hybrid import reciprocal_rank_fusion
from rag_finetune.retrieval.search import Searcher, clamp_n_docs, search_texts
from rag_finetune.retrieval.way import Retrieval

QUESTIONS = ["what is the house of tess ?", "who is in oslo ?", "zinc"]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return tiny_words.full_index(tmp_path_factory.mktemp("search") / "index")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return tiny_words.word_index(tmp_path_factory.mktemp("search") / "words")


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)


def same(found, expected):
    return all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_each_way_gives_what_its_index_gives(index, vectors):
    dense = Searcher(index, Retrieval("dense"))
    assert same(dense.search(vectors, None, 4), index.search(vectors, 4))
    for kind in ("bm25", "tfidf"):
        searcher = Searcher(index, Retrieval(kind))
        assert same(searcher.search(None, QUESTIONS, 4), index.lexical(kind).search(QUESTIONS, 4))


def test_a_hybrid_fuses_the_two_lists(index, vectors):
    found = Searcher(index, Retrieval("hybrid", "tfidf")).search(vectors, QUESTIONS, 5)
    near = index.search(vectors, 20)[1]
    alike = index.lexical("tfidf").search(QUESTIONS, 20)[1]
    assert same(found, reciprocal_rank_fusion(near, alike, 5))


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_a_weighted_hybrid_normalises_both_scores_of_every_candidate(index, vectors, weight):
    way = Retrieval("hybrid", fusion="weighted", weight=weight)
    scores, rows = Searcher(index, way).search(vectors, QUESTIONS, 20)
    products = vectors @ index.vectors_at(np.arange(20)).T
    every = np.broadcast_to(np.arange(20), (3, 20))
    by_words = index.lexical("bm25").scores_at(QUESTIONS, every)

    def normalised(values):
        low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
        return (values - low) / np.maximum(high - low, 1e-9)

    expected = (1 - weight) * normalised(products) + weight * normalised(by_words)
    assert sorted(rows[0].tolist()) == list(range(20))
    # Products of tiny encoders differ by little, and normalising makes rounding larger.
    assert scores == pytest.approx(np.take_along_axis(expected, rows, 1), abs=1e-3)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_prior_is_lambda_times_the_score_by_words(index, words):
    rows = np.array([[19, 3, -1]] * 3)
    scores = index.lexical("bm25").scores_at(QUESTIONS, rows)
    dense = Searcher(index, Retrieval("dense", prior=0.5))
    assert dense.by_words and dense.prior_scores(QUESTIONS, rows) == pytest.approx(0.5 * scores)
    assert Searcher(index, Retrieval("bm25")).prior_scores(QUESTIONS, rows) is None
    assert Searcher(words).prior_scores(QUESTIONS, rows) == pytest.approx(scores)
    halved = Searcher(words, Retrieval("bm25", prior=0.5)).prior_scores(QUESTIONS, rows)
    assert halved == pytest.approx(0.5 * scores)


def test_what_is_wrong_with_the_words_shows_on_opening(index, tmp_path):
    copy = tiny_words.copy_of(index, tmp_path / "index")
    (copy.folder / "bm25/lexical.json").unlink()
    with pytest.raises(FileNotFoundError, match="no index by words"):
        Searcher(copy, Retrieval("bm25"))
    Searcher(copy, Retrieval("dense"))


def test_the_text_of_a_question_is_read_off_its_tokens():
    tokenizer = tiny_rag.word_tokenizer("bert")
    ids = tokenizer(QUESTIONS[:2], padding=True, return_tensors="pt")["input_ids"]
    assert search_texts(tokenizer, ids) == QUESTIONS[:2]


@pytest.mark.parametrize("make", [word_piece, byte_level_bpe, unigram])
def test_a_prefix_of_questions_is_no_word_of_theirs(make):
    plain = make([*PLAIN, "Query: who? query: who?"], 300)
    tokenizer = with_prefix(plain, "Query: ")
    asked = ["who lives in oslo?", "query: is it known?"]
    assert len(tokenizer(asked[0])["input_ids"]) > len(plain(asked[0])["input_ids"])
    found = search_texts(tokenizer, tokenizer(asked)["input_ids"])
    assert found == search_texts(plain, plain(asked)["input_ids"])
    assert "lives" in found[0] and "query" not in found[0].lower() and "query" in found[1]


@pytest.mark.parametrize("n_docs", [0, -1])
def test_fewer_passages_than_one_are_refused(n_docs):
    with pytest.raises(ValueError, match=f"n_docs must be at least 1, found {n_docs}"):
        clamp_n_docs(n_docs, 20)
