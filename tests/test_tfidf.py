"""TF-IDF over numbered words: passages "a a b", "b", "c"."""

import math

import numpy as np
import pytest

from rag_finetune.index.tfidf import Tfidf

PASSAGES = [[0, 0, 1], [1], [2]]
VOCABULARY = {"a": 0, "b": 1, "c": 2}
A = C = 1 + math.log(4 / 2)  # idf: one passage of three has the word
B = 1 + math.log(4 / 3)  # two have it
TWICE = 1 + math.log(2)  # what a word that is said twice weighs, times its idf


def test_scores_are_cosines_worked_by_hand():
    index = Tfidf.build(PASSAGES, VOCABULARY)
    first = math.hypot(TWICE * A, B)
    asked = math.hypot(A, B)
    expected = [(TWICE * A * A + B * B) / (first * asked), B / asked, 0.0]
    assert index.scores([0, 1]) == pytest.approx(expected, rel=1e-6)


def test_a_passage_asked_for_word_by_word_scores_one():
    index = Tfidf.build(PASSAGES, VOCABULARY)
    assert index.scores([0, 1, 0])[0] == pytest.approx(1.0, rel=1e-6)
    assert index.scores([2]) == pytest.approx([0.0, 0.0, 1.0])


def test_a_passage_without_words_is_never_found():
    index = Tfidf.build([[], [0], []], {"a": 0})
    assert index.scores([0]) == pytest.approx([0.0, 1.0, 0.0])


def test_scores_equal_those_of_plain_matrices():
    draw = np.random.default_rng(0)
    passages = [draw.integers(0, 30, draw.integers(0, 40)).tolist() for _ in range(50)]
    vocabulary = {str(word): word for word in range(30)}
    index = Tfidf.build(passages, vocabulary)
    counts = np.array([np.bincount(words, minlength=30) for words in map(np.int64, passages)])
    idf = 1 + np.log(51 / (1 + (counts > 0).sum(0)))

    def unit(rows):
        weights = np.where(rows > 0, 1 + np.log(np.maximum(rows, 1)), 0) * idf
        return weights / np.maximum(np.linalg.norm(weights, axis=-1, keepdims=True), 1e-9)

    for _ in range(20):
        asked = draw.integers(0, 30, 6)
        expected = unit(counts) @ unit(np.bincount(asked, minlength=30))
        assert index.scores(asked.tolist()) == pytest.approx(expected, abs=1e-6)


def test_what_is_loaded_scores_as_what_was_saved(tmp_path):
    index = Tfidf.build(PASSAGES, VOCABULARY)
    index.save(tmp_path, VOCABULARY)
    loaded = Tfidf.load(tmp_path)
    assert loaded.n_words == 3
    for words in ([0], [0, 1], [2, 1, 1]):
        assert np.array_equal(loaded.scores(words), index.scores(words))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".npy"}


def test_an_array_that_was_cut_is_refused(tmp_path):
    Tfidf.build(PASSAGES, VOCABULARY).save(tmp_path, VOCABULARY)
    np.save(tmp_path / "data.npy", np.zeros(1, np.float32))
    with pytest.raises(ValueError, match=r"same size|same length"):
        Tfidf.load(tmp_path)
