"""What a training run leaves on disk, and which model it keeps."""

import json
from pathlib import Path

import pytest
import tiny_rag
from tiny_training import same, train_tiny, weights

from rag_finetune.rag.checkpoint import load_rag


def test_the_best_model_is_what_is_left_in_memory_and_on_disk(tmp_path):
    trainer = train_tiny(
        tmp_path,
        eval_questions=tiny_rag.questions(8),
        max_steps=4,
        learning_rate=1.0,  # it gets worse
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        metric_for_best_model="loss",
        greater_is_better=False,
        save_total_limit=2,
        max_grad_norm=0.1,
    )
    trainer.finish({})
    best = trainer.state.best_model_checkpoint
    assert Path(best).name == f"checkpoint-{trainer.state.best_global_step}"
    from_best = weights(load_rag(best).model)
    assert all(same(from_best, weights(trainer.rag.model)).values())
    assert all(same(from_best, weights(load_rag(tmp_path / "run").model)).values())
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 2


def test_of_equal_figures_the_evaluation_with_the_lower_loss_is_the_best(tmp_path):
    trainer = train_tiny(
        tmp_path,
        eval_questions=tiny_rag.questions(8),
        max_steps=4,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
    )
    entries = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert {entry["eval_exact_match"] for entry in entries} == {0.0}
    best = min(entries, key=lambda entry: entry["eval_loss"])
    assert trainer.state.best_global_step == best["step"] == 4
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-4"


def test_the_index_survives_the_checkpoint_that_the_model_came_from(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    train_tiny(tmp_path, max_steps=1, **options)
    (tmp_path / "index").rename(tmp_path / "gone")
    rag = load_rag(tmp_path / "run/checkpoint-1")
    resume = str(tmp_path / "run/checkpoint-1")
    trainer = train_tiny(tmp_path, rag=rag, max_steps=3, resume=resume, **options)
    trainer.finish({})
    assert not (tmp_path / "run/checkpoint-1").exists()
    assert len(load_rag(tmp_path / "run").retriever.index) == 20


def test_a_checkpoint_of_the_trainer_loads_when_it_alone_is_moved(tmp_path):
    trainer = train_tiny(tmp_path, save_strategy="steps", save_steps=1)
    moved = tmp_path / "elsewhere" / "kept"
    moved.parent.mkdir()
    (tmp_path / "run/checkpoint-2").rename(moved)
    (tmp_path / "run").rename(tmp_path / "gone")
    (tmp_path / "index").rename(tmp_path / "gone-too")
    loaded = load_rag(moved)
    assert all(same(weights(trainer.rag.model), weights(loaded.model)).values())
    assert loaded.retriever.index.folder == moved / "index"
    first = (moved / "index/dense.faiss").stat()
    assert first.st_ino == (tmp_path / "gone/index/dense.faiss").stat().st_ino  # one copy on disk
    assert not (moved / "training_args.bin").exists()
    assert str(tmp_path) not in (moved / "training_arguments.json").read_text()


@pytest.mark.parametrize(("mode", "reference"), [("link", "../../index"), ("none", None)])
def test_save_index_link_and_none_copy_nothing(tmp_path, mode, reference):
    train_tiny(tmp_path, save_strategy="steps", save_steps=2, save_index=mode)
    checkpoint = tmp_path / "run/checkpoint-2"
    assert not (checkpoint / "index").exists()
    assert json.loads((checkpoint / "rag_index.json").read_text())["index"] == reference
    if mode == "link":
        assert len(load_rag(checkpoint).retriever.index) == 20
    else:
        with pytest.raises(ValueError, match="--index"):
            load_rag(checkpoint)
