"""The indexes of a run: which are kept, and which one a checkpoint goes on with."""

import json
import shutil
from dataclasses import replace

import pytest
import tiny_rag
from tiny_training import train_tiny

from rag_finetune.index.build import build_index
from rag_finetune.index.store import open_index
from rag_finetune.index.update import load_own_encoder
from rag_finetune.rag.checkpoint import load_rag, place_index
from rag_finetune.rag.index_choice import require_usable_index
from rag_finetune.training.index_versions import (
    IndexVersions,
    index_of_checkpoint,
    record_version,
    save_snapshot,
)


@pytest.fixture
def run(tmp_path):
    """A run with two versions, and a checkpoint that is linked to the first."""
    versions = IndexVersions(tmp_path / "run")
    made = tiny_rag.tiny_index(tmp_path / "made")
    paths = [versions.path(step, made.manifest.fingerprint) for step in (10, 20)]
    for path in paths:
        shutil.copytree(made.folder, path)
    first, second = map(open_index, paths)
    checkpoint = tmp_path / "run" / "checkpoint-15"
    checkpoint.mkdir()
    place_index(first, checkpoint, "link", ours=True)
    record_version(checkpoint, first, 10)
    return versions, checkpoint, first, second


def names(versions) -> list[str]:
    return sorted(path.name for path in versions.folder.glob("*"))


def test_a_version_is_named_by_its_step_and_its_encoder(run):
    versions, _, first, _ = run
    assert first.folder.name == f"step-10-{first.manifest.fingerprint[:12]}"
    assert versions.holds(first)


def test_pruning_keeps_what_is_searched_and_what_a_checkpoint_is_linked_to(run):
    versions, checkpoint, first, second = run
    save_snapshot(tiny_rag.context_encoder(), versions.path(30, "ab" * 32))
    (versions.folder / "step-30.log").write_text("killed")
    versions.prune(second)
    assert names(versions) == [first.folder.name, second.folder.name]
    shutil.rmtree(checkpoint)
    versions.prune(second)
    assert names(versions) == [second.folder.name]


def test_pruning_leaves_no_empty_folder(run, tmp_path):
    versions, checkpoint, _, _ = run
    shutil.rmtree(checkpoint)
    versions.prune(open_index(tmp_path / "made"))
    assert not versions.folder.exists()


def test_the_index_of_a_checkpoint_is_the_one_that_training_had(run):
    _, checkpoint, first, _ = run
    index, step = index_of_checkpoint(checkpoint)
    assert (index.folder.resolve(), step) == (first.folder.resolve(), 10)


def test_an_index_inside_a_checkpoint_outlives_it_by_hard_links(run, tmp_path):
    versions, checkpoint, first, _ = run
    place_index(first, checkpoint, "copy", ours=True)
    shutil.rmtree(versions.folder)
    index, step = index_of_checkpoint(checkpoint)
    versions.adopt(checkpoint, index, step)
    kept = versions.adopted(index, step)
    assert kept.folder == versions.path(10, index.manifest.fingerprint).absolute()
    paths = [folder / "dense.faiss" for folder in (index.folder, kept.folder)]
    assert paths[0].samefile(paths[1])


def test_an_index_elsewhere_is_used_where_it_is(run, tmp_path):
    versions, checkpoint, _, _ = run
    made = open_index(tmp_path / "made")
    shutil.rmtree(versions.folder)
    versions.adopt(checkpoint, made, 0)
    assert versions.adopted(made, 0) is made


def test_an_index_that_is_gone_is_named(run):
    _, checkpoint, first, _ = run
    shutil.rmtree(first.folder)
    with pytest.raises(FileNotFoundError, match=rf"its index was at .*{first.folder.name}"):
        index_of_checkpoint(checkpoint)


def test_an_index_of_another_encoder_is_refused(run):
    _, checkpoint, _, _ = run
    path = checkpoint / "index_version.json"
    path.write_text(json.dumps({"index_step": 10, "fingerprint": "ab" * 32}))
    with pytest.raises(ValueError, match=r"of the encoder abababababab, found that of .*another"):
        index_of_checkpoint(checkpoint)


def test_a_checkpoint_of_a_run_without_context_encoder_is_refused(run):
    _, checkpoint, _, _ = run
    (checkpoint / "index_version.json").unlink()
    with pytest.raises(FileNotFoundError, match="the run did not train its context encoder"):
        index_of_checkpoint(checkpoint)


def test_a_damaged_record_is_refused(run):
    _, checkpoint, _, _ = run
    (checkpoint / "index_version.json").write_text("{")
    with pytest.raises(ValueError, match=r"index_version.json:1: not JSON"):
        index_of_checkpoint(checkpoint)
    (checkpoint / "index_version.json").write_text("[1]")
    with pytest.raises(ValueError, match='expected an object with "index_step", found a list of 1'):
        index_of_checkpoint(checkpoint)


def test_an_encoder_of_the_hub_that_was_trained_is_kept_in_its_index(tmp_path, monkeypatch):
    tiny_rag.tiny_rag(tmp_path)
    before = load_own_encoder(tmp_path / "index")
    before.save(tmp_path / "hub")
    shutil.rmtree(tmp_path / "index")
    monkeypatch.chdir(tmp_path)  # a name that leads to a folder stands for one of the Hub
    build_index(tiny_rag.passages(), replace(before, name="hub", local=False), tmp_path / "index")
    assert not (tmp_path / "index" / "context_encoder").exists()
    trainer = train_tiny(
        tmp_path,
        rag=load_rag(tmp_path / "assembled"),
        trainable=["context_encoder"],
        index_refresh="blocking",
    )
    trainer.finish({})
    trained = load_own_encoder(tmp_path / "run" / "index").fingerprint()
    assert trained == trainer.context_encoder.fingerprint() != before.fingerprint()


def test_an_index_by_the_encoder_that_was_left_beside_is_taken(tmp_path):
    trainer = train_tiny(tmp_path, trainable=["context_encoder"], index_refresh="none")
    trainer.finish({})
    run, encoder = tmp_path / "run", trainer.context_encoder
    build_index(tiny_rag.passages(), encoder, tmp_path / "new")
    require_usable_index(str(run), str(tmp_path / "new"))
    rag = load_rag(run, index=tmp_path / "new")
    assert rag.retriever.index.manifest.fingerprint == encoder.fingerprint()
    more = {"trainable": ["context_encoder"], "output_dir": str(tmp_path / "more")}
    with pytest.warns(UserWarning, match="run/context_encoder is not the encoder of"):
        train_tiny(tmp_path, rag=load_rag(run), **more, max_steps=1, index_refresh="none")
