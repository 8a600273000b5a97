import io
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import faiss
import numpy as np
import pytest

from rag_finetune.index import dense
from rag_finetune.index.dense import DenseIndex, build_dense, clusters_of
from rag_finetune.index.dense_search import open_dense, search_dense
from rag_finetune.index.recall import exact_scores


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


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (20_000, 3)])
def test_a_flat_file_is_byte_for_byte_what_faiss_writes(path, tmp_path, shape):
    vectors = draw(*shape)
    assert build_dense(vectors, path, "flat") == DenseIndex("Flat", {}, 1.0)
    index = faiss.IndexFlatIP(shape[1])
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "faiss"))
    assert path.read_bytes() == (tmp_path / "faiss").read_bytes()


def test_a_flat_file_takes_memory_for_a_block_only(tmp_path):
    # 120 MB of vectors on the disk; the anonymous memory that building adds is what is measured.
    code = textwrap.dedent("""
        import sys, numpy as np
        from pathlib import Path
        from rag_finetune.index.dense import build_dense
        def held():
            status = Path("/proc/self/status").read_text().split("RssAnon:")[1]
            return int(status.split()[0]) / 1000
        folder = Path(sys.argv[1])
        shape = (300_000, 100)
        np.memmap(folder / "vectors", np.float32, "w+", shape=shape).flush()
        vectors = np.memmap(folder / "vectors", np.float32, "r", shape=shape)
        build_dense(vectors[:10], folder / "small", "flat")
        before, peak = held(), 0
        import rag_finetune.index.dense as dense
        blocks = dense.blocks_of
        def watched(*args):
            global peak
            for block in blocks(*args):
                peak = max(peak, held())
                yield block
        dense.blocks_of = watched
        build_dense(vectors, folder / "dense", "flat")
        print(peak - before)
    """)
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells anonymous memory apart")
    run = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 30


@pytest.mark.parametrize(
    ("index_type", "parameter", "least"),
    [
        ("hnsw", "efSearch", 0.95),
        ("sq8", None, 0.95),
        ("IVF16,Flat", "nprobe", 0.9),
        ("IVF16,PQ8x4np,RFlat", "nprobe", 0.8),
        ("IVF16_HNSW8,SQ8", "nprobe", 0.9),
        ("PCA12,HNSW8,SQ8", "efSearch", 0.5),
        ("OPQ8_16,IVF16,SQ8", "nprobe", 0.5),
        ("NSG16", None, 0.5),
    ],
)
@pytest.mark.filterwarnings("ignore:.*less than 90%")
def test_every_type_finds_what_it_says_that_it_finds(path, index_type, parameter, least):
    vectors = draw_clusters(3000, 16)
    built = build_dense(vectors, path, index_type)
    assert parameter in (*built.search_parameters, None)
    assert least <= built.measured_recall <= 1
    questions = draw_clusters(3200, 16)[3000:]  # of the same clusters
    index = open_dense(path, built.search_parameters)
    _, ids = search_dense(index, questions, 5)
    products = np.take_along_axis(questions @ vectors.T, ids, 1)
    found = (products >= exact_scores(vectors, questions, 5)[:, -1:] - 1e-5).mean()
    assert found == pytest.approx(built.measured_recall, abs=0.2)


@pytest.mark.filterwarnings("ignore:.*less than 90%")
def test_ivf_pq_by_name(path):
    vectors = draw_clusters(10_000, 8)
    built = build_dense(vectors, path, "ivf_pq")
    assert built.faiss_factory == "IVF256,PQ4np"
    assert open_dense(path, built.search_parameters).ntotal == 10_000
    assert path.stat().st_size < 10_000 * 4 * 8


def test_building_twice_gives_the_same_file(path, tmp_path):
    vectors, threads = draw_clusters(3000, 8), faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # with more, HNSW links rows as they come
    try:
        for index_type in ("hnsw", "IVF16,SQ8"):
            first = build_dense(vectors, path, index_type, seed=1)
            assert build_dense(vectors, tmp_path / "again", index_type, seed=1) == first
            assert path.read_bytes() == (tmp_path / "again").read_bytes()
    finally:
        faiss.omp_set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:.*less than 90%")
def test_more_vectors_than_the_sample_are_trained_on_the_sample(path, monkeypatch):
    monkeypatch.setattr(dense, "TRAIN_ROWS", 500)
    vectors = draw_clusters(4000, 8)
    seeds = []
    for seed in (0, 0, 1):
        build_dense(vectors, path, "IVF4,SQ8", seed=seed)
        seeds.append(path.read_bytes())
    assert seeds[0] == seeds[1] != seeds[2]


@pytest.mark.filterwarnings("ignore:.*less than 90%")
def test_rows_keep_their_numbers_over_several_blocks(path, monkeypatch):
    monkeypatch.setattr(dense, "BLOCK_ROWS", 7)
    vectors = draw(120, 8)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for index_type in ("flat", "hnsw", "sq8"):
        built = build_dense(vectors, path, index_type)
        _, ids = search_dense(open_dense(path, built.search_parameters), vectors, 1)
        assert ids[:, 0].tolist() == list(range(120)), index_type


def test_what_was_picked_and_measured_is_printed(path, capsys):
    build_dense(draw_clusters(500, 8), path, progress=True)
    assert "flat: exact, and fast enough up to 1,000,000 passages, found 500" in (
        capsys.readouterr().out
    )
    built = build_dense(draw_clusters(500, 8), path, "hnsw", progress=True)
    effort = built.search_parameters["efSearch"]
    expected = f"HNSW32,Flat: recall@5 {built.measured_recall:.3f}, efSearch {effort}.\n"
    assert capsys.readouterr().out == expected


def test_an_index_that_finds_too_little_is_warned_about(path):
    with pytest.warns(UserWarning, match=r"PQ2x4np: finds \d+\.\d% .*less than 90%. Use a type"):
        built = build_dense(draw(2000, 16), path, "PQ2x4np")
    assert built.measured_recall < 0.9


def test_one_that_finds_enough_is_not(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        build_dense(draw_clusters(500, 8), path, "sq8")


@pytest.mark.parametrize(
    ("index_type", "reason"),
    [
        ("Banana", "could not parse index string Banana"),
        ("", "could not parse index string"),
        ("IVF4", "could not parse index string IVF4"),
        ("PQ7", "should be a multiple of the number of subquantizers"),
        ("HNSW8,PQ4x4", "FAISS builds it by L2 distance only"),
        ("LSH", "METRIC_L2"),
        ("IDMap,Flat", "add does not make sense with IndexIDMap"),
        ("IVF1000,Flat", "Number of training points"),
    ],
)
def test_what_faiss_cannot_build_is_an_error_with_its_reason(path, index_type, reason):
    with pytest.raises(ValueError, match=f'index_type "{index_type}": FAISS .*{reason}.*Use auto'):
        build_dense(draw(60, 16), path, index_type)
    assert not path.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index_type", ["flat", "hnsw", "sq8"])
def test_a_vector_that_is_not_finite_is_refused(path, index_type, value):
    vectors = draw(30, 4)
    vectors[17, 2] = value
    with pytest.raises(ValueError, match=r"17 is not finite|contains NaN's or Inf's"):
        build_dense(vectors, path, index_type)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("index_type", ["flat", "hnsw"])
def test_a_full_disk_is_an_error_and_leaves_nothing(path, monkeypatch, index_type):
    class Full(io.FileIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", lambda path, mode="r", **_: Full(path, mode))
    with pytest.raises(OSError, match="No space left on device"):
        build_dense(draw(30, 4), path, index_type)
    assert os.listdir(path.parent) == []


def test_clusters_are_those_that_lie_together():
    rng = np.random.default_rng(0)
    of = rng.permutation(np.repeat([0, 1, 2], 40))
    vectors = np.eye(5, dtype=np.float32)[of] + rng.normal(0, 0.01, (120, 5)).astype(np.float32)
    found = clusters_of(vectors, 3, seed=1)
    assert found.shape == (120,) and len(set(zip(of, found.tolist(), strict=True))) == 3
    assert (found == clusters_of(vectors, 3, seed=1)).all()
    vectors[7, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        clusters_of(vectors, 3, seed=1)
