import os
from pathlib import Path

import faiss
import numpy as np
import pytest

from rag_finetune.index.dense import build_dense
from rag_finetune.index.dense_search import open_dense, search_dense


def draw(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)


def draw_clusters(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(30, dimension))
    drawn = centres[rng.integers(30, size=rows)] + 0.5 * rng.normal(size=(rows, dimension))
    return drawn.astype(np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "dense.faiss"


@pytest.mark.parametrize("k", [1, 5, 60])
def test_search_of_a_saved_index_equals_brute_force(path, k):
    vectors, questions = draw(60, 16), draw(7, 16, seed=1) * 3
    build_dense(vectors, path)
    scores, ids = search_dense(open_dense(path), questions, k)
    products = questions.astype(np.float64) @ vectors.astype(np.float64).T
    expected = np.argsort(-products, axis=1)[:, :k]
    assert np.array_equal(ids, expected)
    best = np.take_along_axis(products, expected, 1)
    np.testing.assert_allclose(scores, best, rtol=1e-5, atol=1e-5)
    assert (scores.dtype, ids.dtype, scores.shape) == (np.float32, np.int64, (7, k))


def test_longer_vectors_win_as_inner_products_have_it(path):
    # By distance or by angle row 0 would be first.
    build_dense(np.array([[1, 0], [9, 9]], dtype=np.float32), path)
    scores, ids = search_dense(open_dense(path), np.array([[1.0, 0.0]]), 2)
    assert (ids.tolist(), scores.tolist()) == ([[1, 0]], [[9, 1]])


def test_rows_beyond_the_last_are_minus_one_with_score_minus_infinity(path):
    build_dense(draw(3, 4), path)
    scores, ids = search_dense(open_dense(path), draw(2, 4), 5)
    assert sorted(ids[0, :3]) == [0, 1, 2]
    assert (ids[:, 3:] == -1).all() and (scores[:, 3:] == -np.inf).all()
    assert np.isfinite(scores[:, :3]).all()


def test_vectors_may_be_of_any_layout_and_float_type(path):
    vectors = draw(8, 30)
    strided = np.asfortranarray(vectors.astype(np.float64))[:, ::3]
    build_dense(strided, path)
    index, questions = open_dense(path), draw(4, 30, seed=1)[:, ::3]
    scores, _ = search_dense(index, questions.astype(np.float64), 8)
    products = questions @ strided.T
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1), rtol=1e-4, atol=1e-5)


def test_no_question_gives_no_row(path):
    build_dense(draw(3, 4), path)
    scores, ids = search_dense(open_dense(path), np.empty((0, 4)), 2)
    assert scores.shape == ids.shape == (0, 2)


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF2,Flat"])
def test_an_index_by_another_metric_is_refused(path, factory):
    index = faiss.index_factory(4, factory)  # L2 is FAISS's default
    index.train(draw(100, 4))
    index.add(draw(100, 4))
    faiss.write_index(index, str(path))
    with pytest.raises(ValueError, match=r"dense.faiss: expected an inner-product index"):
        open_dense(path)


def test_other_inner_product_indexes_open(path):
    index = faiss.index_factory(4, "HNSW8", faiss.METRIC_INNER_PRODUCT)
    index.add(draw(50, 4))
    faiss.write_index(index, str(path))
    assert open_dense(path).ntotal == 50


def test_search_parameters_are_applied(path):
    vectors = draw(2000, 16)
    index = faiss.index_factory(16, "IVF32,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(path))
    exact = search_dense(open_dense(path, {"nprobe": 32}), vectors[:50], 5)[1]
    products = vectors[:50] @ vectors.T
    assert np.array_equal(exact, np.argsort(-products, axis=1)[:, :5])
    assert not np.array_equal(
        exact, search_dense(open_dense(path, {"nprobe": 1}), vectors[:50], 5)[1]
    )


@pytest.mark.parametrize("name", ["nprobe", "ef_search", ""])
def test_a_search_parameter_that_the_index_lacks_is_an_error(path, name):
    build_dense(draw(50, 4), path, "hnsw")
    with pytest.raises(ValueError, match=f'dense.faiss: .*no search parameter "{name}"'):
        open_dense(path, {name: 4})


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "16", None, 2**31])
def test_a_search_parameter_is_a_whole_number_from_one(path, value):
    build_dense(draw(50, 4), path, "hnsw")
    with pytest.raises(ValueError, match=f"parameter efSearch, found {value}"):
        open_dense(path, {"efSearch": value})


@pytest.mark.parametrize("change", ["add", "add_with_ids", "remove_ids", "train", "reset"])
def test_changing_an_opened_index_is_an_error_not_an_abort(path, change):
    build_dense(draw(20, 4), path)
    index = open_dense(path)
    with pytest.raises(ValueError, match="opened for reading only"):
        getattr(index, change)(draw(2, 4))
    assert index.ntotal == 20


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_question_that_is_not_finite_is_refused(path, value):
    build_dense(draw(20, 4), path)
    questions = draw(3, 4)
    questions[1, 0] = value
    with pytest.raises(ValueError, match=r"1 of 3 question vectors .* the first is number 1"):
        search_dense(open_dense(path), questions, 2)


@pytest.mark.filterwarnings("ignore:.*less than 90%")
@pytest.mark.parametrize(
    "factory", ["HNSW16,Flat", "HNSW16,SQ8", "L2norm,HNSW16,Flat", "HNSW16,SQ4,RFlat"]
)
@pytest.mark.parametrize("k", [100, 1000])
def test_a_search_deeper_than_the_effort_finds_what_there_is(path, factory, k):
    vectors, questions = draw_clusters(1000, 16), draw_clusters(20, 16, seed=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    build_dense(vectors, path, factory)
    refined = {"k_factor_rf": 8} if "RFlat" in factory else {}
    index = open_dense(path, {"efSearch": 16, **refined})
    ids = search_dense(index, questions, k)[1]
    best = np.argsort(-(questions @ vectors.T), axis=1)[:, :k]
    assert (ids >= 0).all()
    recall = np.mean([len(set(a) & set(b)) / k for a, b in zip(best, ids, strict=True)])
    assert recall >= 0.97
    assert np.array_equal(search_dense(index, questions, 8)[1], index.search(questions, 8)[1])


def test_what_lists_do_not_hold_is_minus_one_with_score_minus_infinity(path):
    vectors = np.repeat(np.eye(4, dtype=np.float32), [100, 100, 100, 3], axis=0)
    index = faiss.index_factory(4, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(path))
    scores, ids = search_dense(open_dense(path, {"nprobe": 1}), np.eye(4, dtype=np.float32)[3:], 5)
    assert sorted(ids[0, :3]) == [300, 301, 302] and ids[0, 3:].tolist() == [-1, -1]
    assert scores[0].tolist() == [1, 1, 1, -np.inf, -np.inf]


def test_missing_file_is_named(path):
    with pytest.raises(
        FileNotFoundError, match=r"dense.faiss: no such file. Build the index again"
    ):
        open_dense(path)


def test_a_flat_file_cut_anywhere_is_an_error_that_names_it(path):
    build_dense(draw(5, 4), path)
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(ValueError, match=r"dense.faiss: FAISS cannot read this file"):
            open_dense(path)


def test_text_in_place_of_an_index_is_an_error(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\n" * 3, encoding="utf-8")
    with pytest.raises(ValueError, match="FAISS cannot read this file"):
        open_dense(path)


def test_an_opened_index_is_the_file_itself_not_a_copy(path):
    build_dense(np.zeros((1000, 16), dtype=np.float32), path)
    index = open_dense(path)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists what a process has mapped")
    assert str(path) in maps.read_text(encoding="utf-8")
    assert index.ntotal == 1000
