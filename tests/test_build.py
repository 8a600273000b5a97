import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import tiny_rag
import torch
from datasets import load_from_disk

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index import manifest
from rag_finetune.index.build import build_index
from rag_finetune.index.store import open_index


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

    def forward(self, batch) -> np.ndarray:
        raise MemoryError("no memory")


def test_failure_while_encoding_leaves_nothing_behind(tmp_path):
    encoder = tiny_rag.context_encoder()
    broken = Broken(encoder.model, encoder.tokenizer, 64)
    with pytest.raises(MemoryError):
        build_index(tiny_rag.passages(), broken, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_passages_that_end_in_an_error_leave_nothing_behind(tmp_path):
    def passages():
        yield from tiny_rag.passages()
        raise ValueError("laws.jsonl:21: not JSON")

    with pytest.raises(ValueError, match="not JSON"):
        build_index(passages(), tiny_rag.context_encoder(), tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": None}, r'passage 1 \(id 2\): "title" must be a string, found null'),
        ({"text": " \n"}, r'passage 1 \(id 2\): "text" is empty'),
        ({"id": 7}, r'"id" must be a string, found the number 7'),
    ],
)
def test_passages_that_retrieval_cannot_use_are_refused(tmp_path, change, message):
    rows = list(tiny_rag.passages())
    rows[1] |= change
    with pytest.raises(ValueError, match=message):
        build_index(iter(rows), tiny_rag.context_encoder(), tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Have the system refuse to write past so many bytes of a file, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        (100, False),  # the passages do not fit
        (6_000, True),  # all but the encoder's weights fit
    ],
)
def test_a_full_disk_leaves_no_index_and_the_build_can_be_repeated(built, tmp_path, size, kept):
    with largest_file(size), pytest.raises(OSError, match=r"File too large"):
        tiny_rag.tiny_index(tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == [".index.building"] * kept
    assert len(tiny_rag.tiny_index(tmp_path / "index")) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert np.array_equal(vectors_of(tmp_path / "index"), vectors_of(built))


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "disk" / "index").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "index")
    tiny_rag.tiny_index(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["index"]
    assert len(open_index(tmp_path / "disk" / "index")) == 20


def test_bfloat16_gives_other_vectors_and_is_remembered(built, tmp_path):
    index = build_index(
        tiny_rag.passages(), tiny_rag.context_encoder(), tmp_path / "i", dtype="bfloat16"
    )
    assert (index.manifest.dtype, open_index(built).manifest.dtype) == ("bfloat16", "float32")
    found, exact = index.vectors_at(np.arange(20)), vectors_of(built)
    assert found.dtype == np.float32
    assert not np.array_equal(found, exact)
    np.testing.assert_allclose(found, exact, atol=0.05)


def test_a_dtype_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match='dtype must be float32 or bfloat16 or auto, found "fp16"'):
        build_index(tiny_rag.passages(), tiny_rag.context_encoder(), tmp_path / "i", dtype="fp16")


def test_passages_that_are_too_long_are_counted_and_located(tmp_path):
    encoder = replace(tiny_rag.context_encoder(), max_length=8)
    places = {"1": "laws.tsv:2"}
    with pytest.warns(UserWarning, match=r"20 of 20 passages reach 8 tokens.*laws.tsv:2, document"):
        build_index(tiny_rag.passages(), encoder, tmp_path / "i", locate=lambda ids: places)


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

    monkeypatch.setattr(manifest, "version", version)
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


@pytest.mark.parametrize("best", ["float32", "bfloat16"])
def test_auto_is_what_the_device_is_best_at(tmp_path, monkeypatch, best):
    monkeypatch.setattr("rag_finetune.index.build.best_dtype", lambda device: best)
    index = build_index(
        tiny_rag.passages(), tiny_rag.context_encoder(), tmp_path / "i", dtype="auto"
    )
    assert index.manifest.dtype == best
