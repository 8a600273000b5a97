from pathlib import Path

import faiss
import numpy as np
import pytest

from rag_finetune.index.dense import build_dense
from rag_finetune.index.dense_search import find_effort, open_dense, search_dense
from rag_finetune.index.dense_update import can_grow, grow_dense

# Each searched so thoroughly that it is exact.
THOROUGH = {
    "HNSW16,Flat": {"efSearch": 1024},
    "IVF4,Flat": {"nprobe": 4},
    "IVF4_HNSW4,Flat": {"nprobe": 4},
    "L2norm,HNSW16,Flat": {"efSearch": 1024},
    "L2norm,IVF4,Flat": {"nprobe": 4},
    "IVF4,SQ8,RFlat": {"nprobe": 4, "k_factor_rf": 8},
}
NONE = np.empty(0, dtype=np.int64)


def draw(rows: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def first_change(path: Path, index_type: str) -> tuple[Path, np.ndarray, int]:
    """300 rows, every third of which goes, and 50 new ones in front: the file and the vectors."""
    old, new = draw(300), draw(50, seed=1)
    build_dense(old, path / "old", index_type)
    keep = np.flatnonzero(np.arange(300) % 3)
    rows = np.full(300, -1)
    rows[keep] = 50 + np.arange(len(keep))
    vectors = np.concatenate([new, old[keep]])
    count = grow_dense(path / "old", path / "new", rows, vectors, np.arange(50))
    return path / "new", vectors, count


def assert_exact(path: Path, vectors: np.ndarray, parameters: dict[str, int], k: int) -> None:
    questions = draw(20, seed=2)
    scores, rows = search_dense(open_dense(path, parameters), questions, k)
    products = questions @ vectors.T
    assert np.array_equal(rows, np.argsort(-products, axis=1)[:, :k])
    np.testing.assert_allclose(scores, np.take_along_axis(products, rows, 1), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*less than 90%")
@pytest.mark.parametrize("index_type", THOROUGH)
@pytest.mark.parametrize("k", [1, 5, 250])
def test_rows_that_stay_and_rows_that_come_are_found_by_their_new_numbers(tmp_path, index_type, k):
    path, vectors, tombstones = first_change(tmp_path, index_type)
    assert tombstones == (0 if "IVF" in index_type and "RFlat" not in index_type else 100)
    assert open_dense(path).ntotal == 250 + tombstones
    assert_exact(path, vectors, THOROUGH[index_type], k)


@pytest.mark.parametrize("index_type", ["HNSW16,Flat", "IVF4,Flat"])
def test_a_second_change_goes_on_from_the_first(tmp_path, index_type):
    path, vectors, _ = first_change(tmp_path, index_type)
    rows = np.where(np.arange(250) < 100, -1, np.arange(250) - 100)
    after = np.concatenate([vectors[100:], draw(7, seed=3)])
    again = tmp_path / "again"
    assert grow_dense(path, again, rows, after, np.arange(150, 157)) == (
        200 if "HNSW" in index_type else 0
    )
    assert_exact(again, after, THOROUGH[index_type], 157)


def test_a_vector_that_is_gone_is_not_even_found_by_itself(tmp_path):
    path, vectors, _ = first_change(tmp_path, "HNSW16,Flat")
    gone = draw(300)[::3]
    scores, rows = search_dense(open_dense(path), gone, 3)
    assert (rows >= 0).all()
    np.testing.assert_allclose(scores[:, 0], (gone @ vectors.T).max(1), atol=1e-6)


def test_one_question_among_nothing_but_tombstones_still_finds_k_rows(tmp_path):
    # All but the three furthest rows go, so that fetching twice as many is not enough.
    old = draw(200)
    build_dense(old, tmp_path / "old", "HNSW16,Flat")
    furthest = np.sort(np.argsort(old @ old[0])[:3])
    rows = np.full(200, -1)
    rows[furthest] = np.arange(3)
    assert grow_dense(tmp_path / "old", tmp_path / "new", rows, old[furthest], NONE) == 197
    _, found = search_dense(open_dense(tmp_path / "new", {"efSearch": 400}), old[:1], 2)
    assert np.array_equal(found[0], np.argsort(-(old[furthest] @ old[0]))[:2])


@pytest.mark.filterwarnings("ignore:.*less than 90%")
@pytest.mark.parametrize("index_type", ["HNSW16,Flat", "L2norm,HNSW16,Flat", "HNSW16,SQ8,RFlat"])
def test_what_lies_behind_tombstones_is_found_at_the_effort_of_a_fresh_index(tmp_path, index_type):
    # The 60 nearest rows of a question go: more than the effort.
    rng, old = np.random.default_rng(4), draw(1500)
    questions = old[rng.integers(1500, size=20)]
    build_dense(old, tmp_path / "old", index_type)
    for question in questions:
        keep = np.sort(np.argsort(-(old @ question))[60:])
        rows = np.full(1500, -1)
        rows[keep] = np.arange(len(keep))
        grow_dense(tmp_path / "old", tmp_path / "new", rows, old[keep], NONE)
        opened = open_dense(tmp_path / "new", {"efSearch": 32})
        together = np.stack([question, -question])  # the second is near none of the tombstones
        for asked, found in zip(together, search_dense(opened, together, 5)[1], strict=True):
            assert np.array_equal(found, np.argsort(-(old[keep] @ asked))[:5])


def test_lists_that_are_not_looked_into_give_minus_one_with_score_minus_infinity(tmp_path):
    # Refined, so that it has tombstones, and searched in one list of two that share nothing.
    vectors = np.eye(8, dtype=np.float32)[:2].repeat(40, axis=0)
    build_dense(vectors, tmp_path / "old", "IVF2,Flat,RFlat")
    rows = np.where(np.arange(80) % 10 < 4, -1, np.cumsum(np.arange(80) % 10 >= 4) - 1)
    kept = vectors[rows >= 0]
    assert grow_dense(tmp_path / "old", tmp_path / "new", rows, kept, NONE) == 32
    opened = open_dense(tmp_path / "new", {"nprobe": 1})
    scores, found = search_dense(opened, vectors[[0, 79]], 30)
    assert [sorted(row[:24]) for row in found] == [list(range(24)), list(range(24, 48))]
    assert (found[:, 24:] == -1).all() and (scores[:, 24:] == -np.inf).all()
    assert search_dense(opened, np.empty((0, 8)), 3)[1].shape == (0, 3)


@pytest.mark.parametrize("index_type", ["HNSW16,Flat", "IVF4,Flat"])
def test_what_only_grows_stays_the_type_that_it_was(tmp_path, index_type):
    vectors = draw(120)
    build_dense(vectors[:100], tmp_path / "old", index_type)
    before = (tmp_path / "old").read_bytes()
    added = np.arange(100, 120)
    assert grow_dense(tmp_path / "old", tmp_path / "new", np.arange(100), vectors, added) == 0
    assert (tmp_path / "old").read_bytes() == before
    assert isinstance(open_dense(tmp_path / "new"), (faiss.IndexHNSW, faiss.IndexIVF))
    assert_exact(tmp_path / "new", vectors, THOROUGH[index_type], 5)


def test_recall_is_measured_over_what_is_left(tmp_path):
    path, vectors, _ = first_change(tmp_path, "IVF4,Flat")
    tuned = find_effort(path, vectors, "IVF4,Flat", target=0.5)
    opened = open_dense(path, tuned.parameters)
    questions = draw(400, seed=5)
    best = np.argsort(-(questions @ vectors.T), axis=1)[:, :5]
    found = search_dense(opened, questions, 5)[1]
    share = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(best, found, strict=True)])
    assert abs(tuned.recall - share) < 0.1


def test_a_higher_target_takes_a_greater_effort(tmp_path):
    path, vectors, _ = first_change(tmp_path, "HNSW16,Flat")
    efforts = [
        find_effort(path, vectors, "", target=target).parameters["efSearch"] for target in (0.1, 1)
    ]
    assert efforts[0] == 16 and efforts[1] >= 16


def test_a_file_that_is_no_index_is_named(tmp_path):
    (tmp_path / "old").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="old: FAISS cannot"):
        grow_dense(tmp_path / "old", tmp_path / "new", NONE, draw(1), NONE)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("factory", "can"),
    [
        ("Flat", False),
        ("SQ8", False),
        ("PQ8", False),
        ("NSG16", False),
        ("HNSW32,Flat", True),
        ("PCA8,HNSW8,SQ8", True),
        ("IVF16_HNSW8,SQ8", True),
        ("IVF16,PQ8x4np,RFlat", True),
    ],
)
def test_graphs_and_lists_grow_and_any_other_type_is_built_again(factory, can):
    assert can_grow(factory) is can
