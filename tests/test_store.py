import json
import re
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import faiss
import numpy as np
import pytest
import tiny_rag
from datasets import load_from_disk

from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.index.build import build_index
from rag_finetune.index.dense_search import search_dense
from rag_finetune.index.store import PassageIndex, open_index


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """An index folder that tests leave as it is."""
    folder = tmp_path_factory.mktemp("store") / "index"
    tiny_rag.tiny_index(folder)
    return folder


@pytest.fixture
def folder(built, tmp_path) -> Path:
    """A copy of it to damage."""
    return shutil.copytree(built, tmp_path / "index")


def vectors_of(folder: Path) -> np.ndarray:
    return np.array(load_from_disk(str(folder / "passages"))["embeddings"][:], dtype=np.float32)


def test_folder_holds_passages_vectors_encoder_and_manifest(built):
    assert sorted(path.name for path in built.iterdir()) == [
        "context_encoder",
        "dense.faiss",
        "manifest.json",
        "passages",
    ]
    manifest = open_index(built).manifest
    encoder = tiny_rag.context_encoder()
    assert manifest.fingerprint == encoder.fingerprint()
    assert (manifest.dimension, manifest.n_passages, manifest.n_documents) == (16, 20, 20)
    assert manifest.encoder["max_length"] == 64
    assert manifest.library_versions["torch"] == metadata.version("torch")


def test_passages_and_vectors_come_back_as_they_went_in(built):
    index = open_index(built)
    facts = tiny_rag.facts()
    expected = tiny_rag.context_encoder().encode(
        [fact["text"] for fact in facts], [fact["title"] for fact in facts]
    )
    found, vectors = index.gather(np.arange(20))
    assert len(index) == 20
    assert np.array_equal(vectors, expected)
    assert found == [
        {"id": f["id"], "document_id": f["id"], "title": f["title"], "text": f["text"]}
        for f in facts
    ]
    assert index.passages["id"][:] == [fact["id"] for fact in facts]


def test_search_equals_brute_force_over_the_stored_vectors(built):
    index, vectors = open_index(built), vectors_of(built)
    questions = np.random.default_rng(0).normal(size=(9, 16)).astype(np.float32)
    scores, rows = index.search(questions, 20)
    products = questions @ vectors.T
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(products, rows, 1), scores, rtol=1e-5, atol=1e-5)
    assert all(sorted(row) == list(range(20)) for row in rows.tolist())
    assert np.array_equal(index.search(questions, 3)[1], rows[:, :3])


def test_gather_keeps_order_and_repeats_and_gives_nothing_for_minus_one(built):
    index, vectors = open_index(built), vectors_of(built)
    rows = np.array([[3, -1, 0], [0, 3, 3], [19, -1, -1]])
    found, gathered = index.gather(rows)
    assert [passage["id"] for passage in found] == ["4", "", "1", "1", "4", "4", "20", "", ""]
    assert gathered.shape == (3, 3, 16)
    assert np.array_equal(gathered[rows >= 0], vectors[rows[rows >= 0]])
    assert (gathered[rows < 0] == 0).all()
    assert found[1] == {"id": "", "document_id": "", "title": "", "text": ""}


def test_gathered_passages_are_separate_objects(built):
    found, _ = open_index(built).gather(np.array([-1, -1, 4, 4]))
    for row in (0, 2):
        found[row]["score"] = row
    assert "score" not in found[1] and "score" not in found[3]


def test_gather_of_no_passage_at_all(built):
    found, vectors = open_index(built).gather(np.array([[-1, -1]]))
    assert [passage["text"] for passage in found] == ["", ""]
    assert vectors.shape == (1, 2, 16) and not vectors.any()


def test_two_builds_are_bit_equal_also_from_a_model_in_train_mode(built, tmp_path):
    encoder = tiny_rag.context_encoder()
    encoder.model.train()
    again = build_index(tiny_rag.passages(), encoder, tmp_path / "again")
    assert (again.folder / "dense.faiss").read_bytes() == (built / "dense.faiss").read_bytes()
    assert np.array_equal(vectors_of(again.folder), vectors_of(built))
    assert again.manifest == open_index(built).manifest


def test_the_encoder_in_the_folder_gives_the_same_vectors_and_fingerprint(built):
    encoder = load_context_encoder(str(built / "context_encoder"), max_length=64)
    facts = tiny_rag.facts()
    vectors = encoder.encode([f["text"] for f in facts], [f["title"] for f in facts])
    assert np.array_equal(vectors, vectors_of(built))
    assert encoder.fingerprint() == open_index(built).manifest.fingerprint


def test_encoder_of_the_hub_is_named_not_copied(tmp_path):
    encoder = replace(tiny_rag.context_encoder(), name="org/x", revision="abc", local=False)
    index = build_index(tiny_rag.passages(), encoder, tmp_path / "index")
    assert not (index.folder / "context_encoder").exists()
    assert (index.manifest.encoder["name"], index.manifest.encoder["revision"]) == ("org/x", "abc")


def test_index_opens_after_its_folder_was_moved(folder, tmp_path, monkeypatch):
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    folder.rename(moved)
    monkeypatch.chdir(moved.parent)
    index = open_index("moved")
    assert index.gather(index.search(vectors_of(moved)[:1], 1)[1])[0][0]["id"]
    files = [path for path in moved.rglob("*") if path.is_file()]
    assert not [path for path in files if str(tmp_path).encode() in path.read_bytes()]


def test_another_fingerprint_is_refused_by_name(built):
    assert open_index(built, tiny_rag.context_encoder().fingerprint())
    with pytest.raises(ValueError, match=r"with fingerprint 0123456789ab,\s*found those of tiny"):
        open_index(built, "0123456789abcdef")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_passages": 21}, "rows of dense.faiss: expected 21, found 20"),
        ({"dimension": 8}, "dimension of dense.faiss: expected 8, found 16"),
    ],
)
def test_another_count_or_dimension_than_the_manifests_is_refused(folder, change, message):
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | change), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        open_index(folder)


def forget_sizes(folder: Path) -> None:
    """Take the sizes of the files out of the manifest, so that a look inside must tell."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["file_sizes"]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("name", ["dense.faiss", "passages/data-00000-of-00001.arrow"])
@pytest.mark.parametrize("size", [0, 1, 25, 28, 31, 44, 45, 200, -1])
def test_a_file_that_was_cut_off_is_named_with_both_sizes(folder, name, size):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:size])
    left = len(whole[:size])
    with pytest.raises(ValueError, match=rf"{name}: expected {len(whole):,} bytes, found {left:,}"):
        open_index(folder)


def test_a_cut_file_of_passages_is_refused_without_the_sizes_too(folder):
    forget_sizes(folder)
    path = folder / "passages/data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"passages.*Build the index again"):
        open_index(folder)


def test_search_parameters_of_the_manifest_are_applied(tmp_path):
    rows = [row | {"id": str(n)} for n in range(20) for row in tiny_rag.passages()]
    index = build_index(
        iter(rows), tiny_rag.context_encoder(), tmp_path / "i", index_type="HNSW8,Flat"
    )
    assert index.manifest.search_parameters == {
        "efSearch": faiss.downcast_index(index._dense).hnsw.efSearch
    }


def put_index(folder: Path, index: faiss.Index, rows: int) -> None:
    index.add(np.zeros((rows, index.d), dtype=np.float32))
    faiss.write_index(index, str(folder / "dense.faiss"))


def test_l2_index_put_in_place_is_refused(folder):
    put_index(folder, faiss.IndexFlatL2(16), 20)
    with pytest.raises(ValueError, match="expected an inner-product index"):
        open_index(folder)


def test_index_of_other_rows_or_dimension_put_in_place_is_refused(folder):
    forget_sizes(folder)
    put_index(folder, faiss.IndexFlatIP(16), 19)
    with pytest.raises(ValueError, match=r"rows of dense.faiss: expected 20, found 19"):
        open_index(folder)
    put_index(folder, faiss.IndexFlatIP(8), 20)
    with pytest.raises(ValueError, match=r"dimension of dense.faiss: expected 16, found 8"):
        open_index(folder)


def test_passages_of_another_index_are_refused(folder, tmp_path):
    forget_sizes(folder)
    other = build_index(
        tiny_rag.passages().select(range(5)), tiny_rag.context_encoder(), tmp_path / "other"
    )
    shutil.rmtree(folder / "passages")
    shutil.copytree(other.folder / "passages", folder / "passages")
    with pytest.raises(ValueError, match="rows of passages/: expected 20, found 5"):
        open_index(folder)
    shutil.rmtree(folder / "passages")
    tiny_rag.passages().save_to_disk(str(folder / "passages"))  # without vectors
    with pytest.raises(ValueError, match=r"passages: expected a dataset with columns .*emb"):
        open_index(folder)


@pytest.mark.parametrize("part", ["passages", "dense.faiss", "manifest.json"])
def test_a_missing_part_is_named(folder, part):
    path = folder / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=part):
        open_index(folder)


@pytest.mark.parametrize("k", [0, -1, 21])
def test_k_out_of_range_is_refused(built, k):
    with pytest.raises(ValueError, match=rf"from 1 to 20 \(all passages\), found {k}"):
        open_index(built).search(np.zeros((1, 16)), k)


def test_question_of_another_dimension_is_refused(built):
    with pytest.raises(ValueError, match="dimension of a question: expected 16, found 12"):
        open_index(built).search(np.zeros((1, 12)), 1)


# ---- Building ----


def test_read_only_folder_opens(folder):
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(PassageIndex(folder)) == 20
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)


@pytest.mark.parametrize("index_type", ["SQ4", "PCA4,Flat", "L2norm,Flat"])
def test_compressed_vectors_find_and_whole_vectors_score(tmp_path, index_type):
    index = build_index(
        tiny_rag.passages(), tiny_rag.context_encoder(), tmp_path / "i", index_type=index_type
    )
    vectors = vectors_of(tmp_path / "i")
    questions = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32)
    scores, rows = index.search(questions, 6)
    estimates, _ = search_dense(index._dense, questions, 6)
    np.testing.assert_allclose(
        scores, np.take_along_axis(questions @ vectors.T, rows, 1), rtol=1e-5, atol=1e-5
    )
    assert (np.diff(scores, axis=1) <= 0).all()
    assert np.abs(scores - estimates).max() > 1e-4  # what FAISS itself says is another number


def test_nothing_found_stays_nothing_when_scores_are_taken_again(built):
    index = open_index(built)
    scores, rows = index._rescored(np.ones((1, 16), np.float32), np.array([[-1, 3, -1]]))
    assert rows.tolist() == [[3, -1, -1]] and scores[0, 1:].tolist() == [-np.inf] * 2


def test_a_question_encoder_pooled_in_another_way_is_warned_about(built, recwarn):
    index, settings = open_index(built), tiny_rag.context_encoder().settings()
    index.check_encoder(16, settings)
    assert not recwarn
    with pytest.warns(UserWarning, match="pooling of the question encoder is mean, .* index cls"):
        index.check_encoder(16, {**settings, "pooling": "mean"})
    message = f"expected 16, found 24. The index was encoded by {index.manifest.encoder['name']}"
    with pytest.raises(ValueError, match=re.escape(message)):
        index.check_encoder(24, settings)
