import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import tiny_rag
import torch
from datasets import load_from_disk

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index import build
from rag_finetune.index.build import build_index


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


def test_vectors_that_are_not_finite_make_no_index(tmp_path):
    encoder = tiny_rag.context_encoder()
    with torch.no_grad():
        next(encoder.model.parameters())[5, 0] = float("nan")
    with pytest.raises(ValueError, match="passages have a vector that is not finite, the first is"):
        build_index(tiny_rag.passages(), encoder, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


class Broken(TextEncoder):
    """An encoder that fails while it encodes, once the folder to fill is there."""

    def encode(self, *args, **kwargs) -> np.ndarray:
        raise MemoryError("no memory")


def test_failure_while_encoding_leaves_nothing_behind(tmp_path):
    encoder = tiny_rag.context_encoder()
    broken = Broken(encoder.model, encoder.tokenizer, 64)
    with pytest.raises(MemoryError):
        build_index(tiny_rag.passages(), broken, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def full_disk(*_) -> None:
    raise OSError("disk full")


def test_failure_while_writing_leaves_nothing_behind_and_can_be_repeated(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(build, "save_dense", full_disk)
        with pytest.raises(OSError, match="disk full"):
            tiny_rag.tiny_index(tmp_path / "index")
    assert list(tmp_path.iterdir()) == []
    assert len(tiny_rag.tiny_index(tmp_path / "index")) == 20


def test_what_would_fail_at_the_end_fails_before_encoding(tmp_path):
    encoder = tiny_rag.context_encoder()
    unwritable = tmp_path / "file"
    unwritable.touch()
    never = Broken(encoder.model, encoder.tokenizer, 64)
    with pytest.raises(OSError, match="file"):
        build_index(tiny_rag.passages(), never, unwritable / "index")

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="no fast implementation"):
        build_index(tiny_rag.passages(), Broken(encoder.model, Slow(), 64), tmp_path / "index")


def test_libraries_under_another_name_do_not_stop_the_build(tmp_path, monkeypatch):
    def version(name: str) -> str:
        if name == "faiss-cpu":  # a conda environment has `faiss`, one with a GPU `faiss-gpu`
            raise metadata.PackageNotFoundError(name)
        return metadata.version(name)

    monkeypatch.setattr(build, "version", version)
    versions = tiny_rag.tiny_index(tmp_path / "index").manifest.library_versions
    assert versions["faiss-cpu"] == "unknown" and versions["torch"] == metadata.version("torch")


def test_folder_that_holds_something_is_left_alone(folder):
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(FileExistsError, match="already exists and is not empty"):
        tiny_rag.tiny_index(folder)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "index").mkdir()
    assert len(tiny_rag.tiny_index(tmp_path / "index")) == 20


def test_no_passages_make_no_index(tmp_path):
    with pytest.raises(ValueError, match="at least one passage, found none"):
        build_index(tiny_rag.passages().select([]), tiny_rag.context_encoder(), tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_one_passage_makes_an_index(tmp_path):
    index = build_index(
        tiny_rag.passages().select([4]), tiny_rag.context_encoder(), tmp_path / "index"
    )
    assert index.search(np.ones((2, 16)), 1)[1].tolist() == [[0], [0]]


def test_selected_and_shuffled_passages_keep_their_vectors(tmp_path):
    # A dataset with an indices mapping, whose table on disk has another order.
    passages = tiny_rag.passages().shuffle(seed=3).select(range(11))
    index = build_index(passages, tiny_rag.context_encoder(), tmp_path / "index")
    found, vectors = index.gather(np.arange(11))
    assert [passage["id"] for passage in found] == passages["id"][:]
    expected = tiny_rag.context_encoder().encode(passages["text"][:], passages["title"][:])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert np.array_equal(vectors_of(index.folder), vectors)


def test_documents_are_counted_once(tmp_path):
    passages = tiny_rag.passages().map(lambda row: {"document_id": str(int(row["id"]) % 3)})
    index = build_index(passages, tiny_rag.context_encoder(), tmp_path / "i", passage_words=7)
    assert (index.manifest.n_documents, index.manifest.passage_words) == (3, 7)
