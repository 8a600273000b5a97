"""BM25 over numbered words: passages "a a b", "b", "c c c c"."""

import logging
import math
import shutil

import numpy as np
import pytest

from rag_finetune.index.bm25 import METHODS, Bm25

PASSAGES = [[0, 0, 1], [1], [2, 2, 2, 2]]
VOCABULARY = {"a": 0, "b": 1, "c": 2}
MEAN = 8 / 3  # words a passage


def built(**settings):
    return Bm25.build(PASSAGES, VOCABULARY, **settings)


def lucene(count, length, containing, k1=1.5, b=0.75):
    """The formula, for one word of the question."""
    idf = math.log(1 + (3 - containing + 0.5) / (containing + 0.5))
    return idf * count / (count + k1 * (1 - b + b * length / MEAN))


def test_scores_are_those_of_lucenes_formula():
    expected = [lucene(2, 3, 1) + lucene(1, 3, 2), lucene(1, 1, 2), 0.0]
    assert built().scores([0, 1]) == pytest.approx(expected, rel=1e-5)


def test_a_word_asked_twice_counts_twice():
    assert built().scores([2, 2]) == pytest.approx(2 * built().scores([2]))


def test_k1_and_b_are_those_of_the_formula():
    found = built(k1=0.9, b=0.4).scores([1])
    expected = [lucene(1, 3, 2, 0.9, 0.4), lucene(1, 1, 2, 0.9, 0.4), 0.0]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_passage_without_a_word_of_the_question_scores_zero(method):
    scores = built(method=method).scores([2])
    assert scores[0] == scores[1] == 0.0
    assert scores[2] > 0.0


@pytest.mark.parametrize("method", METHODS)
def test_what_is_loaded_scores_as_what_was_saved(method, tmp_path):
    index = built(method=method, k1=1.2)
    index.save(tmp_path)
    loaded = Bm25.load(tmp_path)
    assert loaded.n_words == 3
    for words in ([0], [0, 1], [2, 1, 1]):
        assert np.array_equal(loaded.scores(words), index.scores(words))


def test_scores_are_mapped_and_not_read(tmp_path):
    built().save(tmp_path)
    array = Bm25.load(tmp_path)._scorer.scores["data"]
    while isinstance(array.base, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    assert isinstance(array, np.memmap)


def test_nothing_is_unpickled(tmp_path):
    built().save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".npy"}
    np.save(tmp_path / "data.csc.index.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        Bm25.load(tmp_path)


def test_arrays_that_do_not_belong_together_are_refused(tmp_path):
    built().save(tmp_path / "one")
    Bm25.build([[0]], {"a": 0}).save(tmp_path / "two")
    name = "indptr.csc.index.npy"
    shutil.copy(tmp_path / "two" / name, tmp_path / "one" / name)
    with pytest.raises(ValueError, match="do not belong together"):
        Bm25.load(tmp_path / "one")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "okapi"}, 'method must be one of lucene, .*, found "okapi"'),
        ({"k1": -0.1}, "k1 must be 0 or more and b from 0 to 1, found -0.1"),
        ({"b": 1.5}, "found 1.5 and 1.5"),
        ({"k1": math.nan}, "found nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        built(**settings)


def test_bm25s_says_nothing(capfd, caplog):
    with caplog.at_level(logging.DEBUG):
        built().scores([0])
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("bm25s")]
