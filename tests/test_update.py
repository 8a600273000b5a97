import json
import os
import shutil
import subprocess
import sys
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_rag
from conftest import ROOT
from transformers import AutoConfig, RagConfig, RagRetriever

from rag_finetune.encoders import encode
from rag_finetune.index.build import build_index
from rag_finetune.index.lexical_parts import add_lexical, build_word_index
from rag_finetune.index.recall import exact_scores
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.index.update import (
    compact_index,
    compaction_advice,
    load_own_encoder,
    update_index,
)

TYPES = ["flat", "SQ8", "HNSW8,Flat", "IVF2,Flat"]
REPLACING = [
    {"id": "4", "document_id": "4", "title": "house of dan", "text": "dan lives in cairo"},
    {"id": "9#1", "document_id": "9", "title": "", "text": "old house"},
    {"id": "9#2", "document_id": "9", "title": "", "text": "who has a dog"},
]
REMOVED = ["1", "8"]


def rows() -> list[dict[str, str]]:
    return tiny_rag.passages().to_list()


def rows_after() -> list[dict[str, str]]:
    """What a fresh build is given: replaced ones in place, new ones at the end."""
    after = []
    for row in rows():
        mine = [new for new in REPLACING if new["document_id"] == row["id"]]
        after += mine or [row] * (row["id"] not in REMOVED)
    return after


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Indexes of all but the last five, by their types, and fresh ones of what comes of them."""
    folder, encoder = tmp_path_factory.mktemp("update"), tiny_rag.context_encoder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index_type in TYPES:
            name = index_type.partition(",")[0]
            build_index(iter(rows()[:15]), encoder, folder / name, index_type=index_type)
            fresh = folder / f"fresh-{name}"
            build_index(iter(rows_after()), encoder, fresh, index_type=index_type)
    return folder


@pytest.fixture
def folder(built, tmp_path) -> Path:
    """A flat one, to change."""
    return shutil.copytree(built / "flat", tmp_path / "index")


def update(folder: Path, **options) -> PassageIndex:
    return update_index(folder, add=rows()[15:], replace=REPLACING, remove=REMOVED, **options)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def questions(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)


@pytest.mark.filterwarnings("ignore:.*compact it", "ignore:.*less than 90%")
@pytest.mark.parametrize("index_type", TYPES)
def test_an_updated_index_holds_what_a_fresh_one_does(built, tmp_path, index_type):
    name = index_type.partition(",")[0]
    folder = shutil.copytree(built / name, tmp_path / "index")
    index, fresh = update(folder), open_index(built / f"fresh-{name}")
    everything = np.arange(len(fresh))
    assert index.gather(everything)[0] == fresh.gather(everything)[0]
    np.testing.assert_allclose(
        index.vectors_at(everything), fresh.vectors_at(everything), atol=1e-6
    )
    for key in ("n_passages", "n_documents", "fingerprint", "encoder", "index_type"):
        assert getattr(index.manifest, key) == getattr(fresh.manifest, key), key
    assert sorted(contents(folder)) == sorted(contents(fresh.folder))


@pytest.mark.parametrize("name", ["flat", "SQ8"])
def test_a_search_of_an_exact_or_quantised_index_is_that_of_a_fresh_one(built, tmp_path, name):
    index = update(shutil.copytree(built / name, tmp_path / "index"))
    fresh = open_index(built / f"fresh-{name}")
    for mine, theirs in zip(
        index.search(questions(), 19), fresh.search(questions(), 19), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert (index.manifest.tombstones, index.manifest.additions) == (0, 0)


@pytest.mark.filterwarnings("ignore:.*compact it", "ignore:.*less than 90%")
@pytest.mark.parametrize("name", ["HNSW8", "IVF2"])
def test_graphs_keep_tombstones_that_no_search_returns_and_lists_none(built, tmp_path, name):
    folder = shutil.copytree(built / name, tmp_path / "index")
    index = update(folder)
    gone = 4 if name == "HNSW8" else 0
    assert (index.manifest.tombstones, index.manifest.additions) == (gone, 8)
    assert index._dense.ntotal == 19 + gone
    scores, found = index.search(questions(), 5)
    assert found.max() < 19 and (found >= -1).all()
    exact = exact_scores(index.vectors_at(np.arange(19)), questions(), 5)
    assert name != "HNSW8" or np.isclose(scores, exact, atol=1e-5).mean() > 0.9
    assert (scores <= exact + 1e-5).all()
    # And a second time, over what the first has left.
    again = update_index(folder, remove=["2", "3", "20"], add=[{**rows()[0], "id": "21"}])
    assert again.manifest.tombstones == (7 if gone else 0)
    assert again.search(questions(), 17)[1].max() == 16


@pytest.mark.parametrize("name", ["HNSW8", "IVF2"])
def test_compacting_gives_the_file_of_a_fresh_build(built, tmp_path, name):
    folder, fresh = shutil.copytree(built / name, tmp_path / "index"), built / f"fresh-{name}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        update(folder)
        index = compact_index(folder)
    assert (folder / "dense.faiss").stat().st_size == (fresh / "dense.faiss").stat().st_size
    manifest = replace(index.manifest, last_update="")
    assert manifest == open_index(fresh).manifest
    assert np.array_equal(
        index.search(questions(), 5)[1], open_index(fresh).search(questions(), 5)[1]
    )
    before = contents(folder)
    compact_index(folder)  # nothing to do
    assert contents(folder) == before


def test_compacting_to_another_type_encodes_nothing(folder, monkeypatch):
    monkeypatch.setattr(encode, "encode_block", None)
    index = compact_index(folder, index_type="HNSW8,Flat")
    assert (index.manifest.faiss_factory, index.manifest.index_type) == 2 * ("HNSW8,Flat",)
    assert len(index) == 15 and index.search(questions(), 5)[1].max() < 15
    with pytest.raises(ValueError, match="FAISS cannot build it"):
        compact_index(folder, index_type="nonsense")
    assert open_index(folder).manifest.faiss_factory == "HNSW8,Flat"


def test_only_what_comes_is_encoded(folder, monkeypatch):
    encoded, plain = [], encode.encode_block

    def logged(encoder, texts, *more, **options):
        encoded.extend(texts)
        return plain(encoder, texts, *more, **options)

    monkeypatch.setattr(encode, "encode_block", logged)
    before = open_index(folder)
    kept = before.vectors_at(np.array([1, 2, 14]))
    index = update(folder)
    assert sorted(encoded) == sorted(row["text"] for row in [*REPLACING, *rows()[15:]])
    assert np.array_equal(index.vectors_at(np.array([0, 1, 13])), kept)
    update_index(folder, remove=["2"])
    assert len(encoded) == 8


def test_an_update_that_goes_on_says_what_is_there(folder, monkeypatch, capsys):
    monkeypatch.setattr(encode, "TEXTS_PER_BLOCK", 3)
    plain, calls = encode.encode_block, []

    def stops(*words, **options):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("the disk is gone")
        return plain(*words, **options)

    monkeypatch.setattr(encode, "encode_block", stops)
    with pytest.raises(OSError, match="the disk is gone"):
        update(folder)
    assert len(update(folder, progress=True)) == 19
    said = capsys.readouterr().out
    assert "Passages: 5 added, 3 in place of 2, 2 removed; 19 instead of 15." in said
    assert "resuming: 3 of 8 passages encoded already." in said


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        ({"add": rows()[15:]}, "Passages: 5 added; 20 instead of 15."),
        ({"replace": REPLACING}, "Passages: 3 in place of 2; 16 instead of 15."),
        ({"remove": ["2"]}, "Passages: 1 removed; 14 instead of 15."),
    ],
)
def test_what_an_update_does_is_said_and_nothing_of_what_it_does_not(
    folder, capsys, request_, line
):
    update_index(folder, progress=True, **request_)
    said = capsys.readouterr().out
    assert line in said and "resuming" not in said


def test_the_same_update_once_more_finds_its_work_done(folder, capsys):
    update(folder)
    before = contents(folder)
    assert len(update(folder, progress=True)) == 19
    assert "this update was made already" in capsys.readouterr().out
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"remove": ["2", "nowhere"]}, '"nowhere": to be removed'),
        ({"replace": [{**REPLACING[0], "id": "x", "document_id": "x"}]}, '"x": to be replaced'),
        ({"add": [REPLACING[0]]}, r'"4": to be added, .*--replace'),
        ({"add": [{**REPLACING[0], "id": "x", "text": " "}]}, '"text" is empty'),
        ({"remove": [str(n) for n in range(1, 16)]}, "No passage would be left"),
        ({}, "nothing to add, to replace or to remove"),
    ],
)
def test_what_does_not_fit_changes_nothing(folder, request_, message):
    before = contents(folder)
    with pytest.raises(ValueError, match=message):
        update_index(folder, **request_)
    assert contents(folder) == before


def test_another_encoder_is_refused(folder):
    with pytest.raises(ValueError, match="expected the encoder with fingerprint"):
        update(folder, encoder=tiny_rag.context_encoder(seed=7))
    assert len(open_index(folder)) == 15


def test_an_encoder_that_has_changed_since_is_refused(folder):
    tiny_rag.context_encoder(seed=7).save(folder / "context_encoder")
    with pytest.raises(ValueError, match=r"expected the encoder of its vectors, tiny with"):
        load_own_encoder(folder)


def test_an_encoder_of_the_hub_is_found_by_its_name(tmp_path, monkeypatch):
    encoder = tiny_rag.context_encoder()
    encoder.save(tmp_path / "parts")
    monkeypatch.chdir(tmp_path)  # a name that leads to a folder stands for one of the Hub
    named = replace(encoder, name="parts", local=False)
    build_index(tiny_rag.passages(), named, tmp_path / "index")
    assert not (tmp_path / "index" / "context_encoder").exists()
    assert load_own_encoder(tmp_path / "index").fingerprint() == encoder.fingerprint()


def test_a_disk_that_is_too_small_is_told_before_the_work(folder, monkeypatch):
    usage = shutil.disk_usage(folder)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    before = contents(folder)
    with pytest.raises(OSError, match=r"needs .* of disk"):
        update_index(folder, remove=["1"])
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"tombstones": 25}, ""),
        ({"tombstones": 26}, "21% of the vectors in its FAISS file are of passages that are gone"),
        ({"additions": 90}, ""),
        ({"additions": 51, "faiss_factory": "IVF4,Flat"}, "51 vectors were added to lists"),
        ({"additions": 50, "faiss_factory": "IVF4,Flat"}, ""),
    ],
)
def test_compacting_is_advised_where_it_is_worth_it(built, change, advice):
    manifest = replace(open_index(built / "flat").manifest, n_passages=100, **change)
    assert compaction_advice(manifest).startswith(advice)
    assert bool(advice) is bool(compaction_advice(manifest))


def test_an_update_warns_where_compacting_is_due(built, tmp_path):
    folder = shutil.copytree(built / "HNSW8", tmp_path / "index")
    with pytest.warns(UserWarning, match=r"index: 27% of the vectors .*rag-finetune compact"):
        update_index(folder, remove=["1", "2", "3", "4"])


@pytest.mark.filterwarnings("ignore:.*compact it", "ignore:.*less than 90%")
@pytest.mark.parametrize("name", ["flat", "SQ8", "IVF2", "HNSW8"])
def test_plain_transformers_reads_an_updated_index_at_the_documented_places(built, tmp_path, name):
    folder = shutil.copytree(built / name, tmp_path / "index")
    index = update(folder)
    if name == "HNSW8":
        with pytest.raises(ValueError, match="has 23 elements while the dataset has 19"):
            plain_retriever(folder, tmp_path / "parts")
        index = compact_index(folder)
    _, rows, documents = plain_retriever(folder, tmp_path / "parts").retrieve(questions(8), 2)
    titles = [list(found["text"]) for found in documents]
    assert titles == [[p["text"] for p in index.passages_at(found)] for found in rows]
    if name == "flat":
        assert np.array_equal(rows, index.search(questions(8), 2)[1])


def plain_retriever(folder: Path, parts_folder: Path) -> RagRetriever:
    parts = tiny_rag.save_parts(parts_folder)
    roles = ("question_encoder", "generator")
    config = RagConfig.from_question_encoder_generator_configs(
        *(AutoConfig.from_pretrained(parts[role]) for role in roles),
        index_name="custom",
        passages_path=str(folder / "passages"),
        index_path=str(folder / "dense.faiss"),
        retrieval_vector_size=16,
    )
    return RagRetriever(config, *map(tiny_rag.word_tokenizer, ("bert", "bart")))


@pytest.mark.filterwarnings("ignore:.*compact it")
def test_an_index_inside_a_checkpoint_is_updated_alone(tmp_path):
    from rag_finetune.rag.checkpoint import load_rag, place_index, save_rag

    rag = tiny_rag.tiny_rag(tmp_path)
    first, second = tmp_path / "run", tmp_path / "run" / "checkpoint-1"
    for folder in (first, second):
        save_rag(rag.model, rag.tokenizer, folder)
    place_index(rag.retriever.index, first, "copy", ours=False)
    place_index(open_index(first / "index"), second, "copy", ours=True)
    assert (second / "index/dense.faiss").samefile(first / "index/dense.faiss")
    before = contents(second)
    update_index(first / "index", remove=["1"])
    assert len(load_rag(first).retriever.index) == 19
    assert contents(second) == before and len(load_rag(second).retriever.index) == 20


KINDS = {"bm25": {"k1": 1.2}}


def word_index(passages: list[dict[str, str]], folder: Path, *, vectors: bool) -> PassageIndex:
    """An index by words, with vectors or without."""
    if not vectors:
        return build_word_index(iter(passages), folder, KINDS)
    index = build_index(iter(passages), tiny_rag.context_encoder(), folder)
    add_lexical(index, KINDS)
    return open_index(folder)


@pytest.mark.parametrize("vectors", [True, False])
def test_indexes_by_words_are_those_of_a_fresh_build_with_their_own_settings(tmp_path, vectors):
    word_index(rows()[:15], tmp_path / "index", vectors=vectors)
    fresh = word_index(rows_after(), tmp_path / "fresh", vectors=vectors)
    index = update(tmp_path / "index")
    asked = [fact["question"] for fact in tiny_rag.facts()]
    found, expected = (one.lexical("bm25").search(asked, 19) for one in (index, fresh))
    assert np.array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    assert (
        index.passages.select_columns(["id", "text"])[:]
        == (fresh.passages.select_columns(["id", "text"])[:])
    )
    assert replace(index.manifest, last_update="") == fresh.manifest
    assert sorted(contents(index.folder)) == sorted(contents(fresh.folder))
    assert len(update(tmp_path / "index")) == 19  # done already
    with pytest.raises(ValueError, match="holds no vectors") if not vectors else nullcontext():
        compact_index(tmp_path / "index", index_type="flat")


def test_words_of_another_version_are_not_searched_for_an_index_that_was_opened_before(tmp_path):
    opened = word_index(rows()[:15], tmp_path / "index", vectors=False)
    earlier = open_index(tmp_path / "index")
    words = earlier.lexical("bm25")
    update_index(tmp_path / "index", replace=[REPLACING[0]])
    with pytest.raises(ValueError, match="It was updated since it was opened: open it again"):
        opened.lexical("bm25")
    assert earlier.lexical("bm25") is words


def test_vectors_of_another_version_are_not_searched_for_an_index_that_was_opened_before(
    built, tmp_path
):
    folder = shutil.copytree(built / "IVF2", tmp_path / "index")
    opened = open_index(folder)
    assert opened.searched_with({"nprobe": 2}).manifest.search_parameters == {"nprobe": 2}
    update_index(folder, remove=["1"])
    with pytest.raises(ValueError, match="It was updated since it was opened: open it again"):
        opened.searched_with({"nprobe": 2})


def test_words_are_not_added_to_an_index_that_was_changed_meanwhile(tmp_path):
    opened = word_index(rows()[:15], tmp_path / "index", vectors=False)
    update_index(tmp_path / "index", remove=["1"])
    with pytest.raises(ValueError, match="was changed meanwhile"):
        add_lexical(opened, {"bm25": {"k1": 0.5}})


def killed(folder: Path, *words: object) -> dict[str, int]:
    """Run killed_updates.py; what it saw."""
    program = ROOT / "tests" / "killed_updates.py"
    run = [sys.executable, str(program), str(folder), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_update_killed_at_any_moment_leaves_one_of_the_versions_and_ends_the_same(tmp_path):
    seen = killed(tmp_path, "flat", 9, 1)
    assert seen["calls"] >= 40 and seen["old"] >= 1 and seen["new"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("index_type", "stride"), [("flat", 7), ("HNSW8,Flat", 11)])
def test_an_update_killed_before_many_changes_of_a_name(tmp_path, index_type, stride):
    seen = killed(tmp_path, index_type, stride, 5)
    assert seen["old"] >= 3 and seen["new"] >= 5
