"""An index encoded anew: the same passages, the vectors of a fresh build, whole or not at all."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_rag

from rag_finetune.index import reencode
from rag_finetune.index.build import build_index
from rag_finetune.index.lexical_parts import add_lexical
from rag_finetune.index.manifest import load_manifest
from rag_finetune.index.processes import World
from rag_finetune.index.reencode import reencode_index
from rag_finetune.index.store import open_index


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return tiny_rag.tiny_index(tmp_path_factory.mktemp("reencode") / "old")


def same(one, other) -> None:
    rows = np.arange(len(one))
    assert one.passages_at(rows) == other.passages_at(rows)
    assert np.array_equal(one.vectors_at(rows), other.vectors_at(rows))
    assert (one.folder / "dense.faiss").read_bytes() == (other.folder / "dense.faiss").read_bytes()
    assert one.manifest == other.manifest


def test_a_reencoded_index_is_a_fresh_build_with_the_new_encoder(old, tmp_path):
    encoder = tiny_rag.context_encoder(seed=7)
    before = load_manifest(old.folder)
    found = reencode_index(old, encoder, tmp_path / "new")
    fresh = build_index(tiny_rag.passages(), encoder, tmp_path / "fresh")
    same(found, fresh)
    assert found.manifest.fingerprint == encoder.fingerprint() != before.fingerprint
    assert load_manifest(old.folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "new"]


def test_the_folder_moves_only_after_every_process_has_opened_it(old, tmp_path, monkeypatch):
    done = []

    class Waiting(World):
        def wait(self):
            done.append("wait")

    def noted(name):
        original = getattr(reencode, name)
        return lambda *args, **kwargs: (original(*args, **kwargs), done.append(name))[0]

    for name in ("build_index", "publish"):
        monkeypatch.setattr(reencode, name, noted(name))
    reencode_index(old, tiny_rag.context_encoder(seed=7), tmp_path / "new", world=Waiting())
    assert done[done.index("build_index") :] == ["build_index", "wait", "publish", "wait"]


def test_type_words_and_way_are_those_of_the_old_index(tmp_path):
    old = build_index(
        tiny_rag.passages(),
        tiny_rag.context_encoder(),
        tmp_path / "old",
        index_type="HNSW8,Flat",
        passage_words=50,
        overlap=5,
    )
    add_lexical(old, {"bm25": {"language": "english"}})
    manifest = json.loads((old.folder / "manifest.json").read_text())
    manifest["retrieval"] = {"way": "hybrid"}
    manifest["search_parameters"] = {"efSearch": 400}
    (old.folder / "manifest.json").write_text(json.dumps(manifest))
    old = open_index(tmp_path / "old")
    found = reencode_index(old, tiny_rag.context_encoder(seed=7), tmp_path / "new")
    for name in (
        "faiss_factory",
        "passage_words",
        "overlap",
        "lexical",
        "retrieval",
        "search_parameters",
        "n_documents",
    ):
        assert getattr(found.manifest, name) == getattr(old.manifest, name), name
    words = [index.lexical("bm25").search(["the house of ada"], 3)[1] for index in (old, found)]
    assert np.array_equal(*words)


def test_what_a_kill_left_is_made_anew(old, tmp_path):
    tiny_rag.tiny_index(tmp_path / ".new.encoded")  # whole, but of another encoder
    encoder = tiny_rag.context_encoder(seed=7)
    assert reencode_index(old, encoder, tmp_path / "new").manifest.fingerprint == (
        encoder.fingerprint()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_folder_that_holds_something_is_not_overwritten(old, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        reencode_index(old, tiny_rag.context_encoder(seed=7), tmp_path / "new")
    assert (tmp_path / "new" / "notes").read_text() == "mine"


def test_the_program_encodes_by_the_folder_of_an_encoder(old, tmp_path, monkeypatch):
    encoder = tiny_rag.context_encoder(seed=7)
    encoder.save(tmp_path / "encoder")
    monkeypatch.setattr(reencode, "_end_with_parent", lambda: None)  # whose input is the test's
    words = [str(old.folder), str(tmp_path / "encoder"), str(tmp_path / "new")]
    assert reencode.main(words) == 0
    found = open_index(tmp_path / "new", encoder.fingerprint())
    assert found.manifest.encoder["name"] == "encoder"


@pytest.mark.slow
def test_the_program_ends_when_its_input_does(tmp_path):
    code = (
        "import threading, time\n"
        "from rag_finetune.index.reencode import _end_with_parent\n"
        "threading.Thread(target=_end_with_parent, daemon=True).start()\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.stdin.close()
    assert process.wait(timeout=30) == 1
    assert time.monotonic() - began < 30
    process.stdout.close()
