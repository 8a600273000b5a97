import json

import numpy as np
import pytest
import tiny_rag
from datasets import load_from_disk

from rag_finetune.index import rewrite
from rag_finetune.index.build import build_index
from rag_finetune.index.changes import Changes
from rag_finetune.index.rewrite import Arrivals, write_version
from rag_finetune.index.store import open_index

ORDER = np.array([19, 3, 21, 0, 20])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewrite") / "index"
    return tiny_rag.tiny_index(folder)


def arrivals() -> Arrivals:
    rows = [{"id": f"n{i}", "document_id": "n", "title": "", "text": f"new {i}"} for i in range(2)]
    texts = tiny_rag.passages().from_list(rows)
    return Arrivals(texts, np.array([[1.0] * 16, [2.0] * 16], dtype=np.float32))


@pytest.mark.parametrize("rows_per_block", [2, 4096])
def test_passages_and_vectors_stand_in_the_order_that_was_asked_for(
    index, tmp_path, monkeypatch, rows_per_block
):
    monkeypatch.setattr(rewrite, "ROWS_PER_BLOCK", rows_per_block)
    target = tmp_path / "next"
    manifest = write_version(index, Changes(ORDER, 20, 17, 0), arrivals(), tmp_path, target)
    found = load_from_disk(str(target / "passages"))
    assert found["id"][:] == ["20", "4", "n1", "1", "n0"]
    old = index.vectors_at(np.array([19, 3, 0]))
    expected = np.stack([old[0], old[1], np.full(16, 2), old[2], np.full(16, 1)])
    assert np.array_equal(np.array(found["embeddings"][:], np.float32), expected)
    assert np.array_equal(
        np.fromfile(target / "dense.faiss", np.float32, offset=45), expected.ravel()
    )
    assert (manifest.n_passages, manifest.n_documents) == (5, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["next"]


def test_no_two_versions_have_the_fingerprint_that_token_caches_are_kept_by(index, tmp_path):
    found = {index.passages._fingerprint}
    for number, order in enumerate([np.arange(20), np.arange(19), np.arange(20)[::-1]]):
        (tmp_path / str(number)).mkdir()
        target = tmp_path / str(number) / "next"
        write_version(index, Changes(order.copy(), 20, 0, 0), None, target.parent, target)
        found.add(load_from_disk(str(target / "passages"))._fingerprint)
    assert len(found) == 4


def test_what_it_takes_is_said_first(index, tmp_path, capsys):
    write_version(
        index, Changes(ORDER[:2], 20, 18, 0), None, tmp_path, tmp_path / "next", progress=True
    )
    assert "Writing 2 passages beside the old ones: about " in capsys.readouterr().out
    assert len(open_index(index.folder)) == 20


@pytest.mark.filterwarnings("ignore:.*less than 90%")
@pytest.mark.parametrize(
    ("built", "index_type", "tuned", "expected"),
    [
        ("HNSW8,Flat", "", {"efSearch": 256}, {"efSearch": 256}),
        ("HNSW8,Flat", "HNSW8,Flat", {"efSearch": 256}, {"efSearch": 256}),
        ("HNSW8,Flat", "", {"efSearch": 1}, {"efSearch": 16}),
        ("HNSW8,Flat", "HNSW4,Flat", {"efSearch": 256}, {"efSearch": 16}),
        ("IVF4,Flat", "", {"nprobe": 4}, {"nprobe": 4}),
        ("IVF4,Flat", "", {"nprobe": 16}, {"nprobe": 16}),  # all there are, to FAISS
        ("IVF4,Flat", "IVF2,Flat", {"nprobe": 4}, {"nprobe": 1}),
        ("HNSW8,Flat", "flat", {"efSearch": 256}, {}),
    ],
)
def test_a_greater_effort_is_kept_while_the_type_is_the_same(
    tmp_path, built, index_type, tuned, expected
):
    folder, encoder = tmp_path / "index", tiny_rag.context_encoder()
    build_index(tiny_rag.passages(), encoder, folder, index_type=built)
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**data, "search_parameters": tuned}))
    found = write_version(
        open_index(folder),
        Changes(ORDER, 20, 17, 0),
        arrivals(),
        tmp_path,
        tmp_path / "next",
        index_type=index_type,
    )
    assert found.search_parameters == expected
