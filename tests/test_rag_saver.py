"""What a training run leaves on disk, and which model it keeps."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_rag
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import filter_repo_objects
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


# ---- The model card ----


def test_every_folder_that_is_saved_has_a_card_with_its_own_figures(tmp_path):
    trainer = train_tiny(
        tmp_path,
        eval_questions=tiny_rag.questions(8),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        metric_for_best_model="loss",
        greater_is_better=False,
        learning_rate=1.0,
    )
    trainer.data_names = {"trained on": "train.json, 16 questions"}
    trainer.finish({})
    cards = {
        name: (tmp_path / "run" / name / "README.md").read_text()
        for name in ("checkpoint-1", "checkpoint-2", "")
    }
    evaluated = {e["step"]: e for e in trainer.state.log_history if "eval_recall@5" in e}
    steps = {"checkpoint-1": 1, "checkpoint-2": 2, "": trainer.state.best_global_step}
    for name, card in cards.items():
        assert f"| recall@5 | {100 * evaluated[steps[name]]['eval_recall@5']:.1f} % |" in card
        assert "| learning_rate | 1.0 |" in card and "| max_steps | 2 |" in card
        assert "num_train_epochs" not in card
        assert "| trainable | question_encoder, generator |" in card
        assert "| lr_scheduler_type | linear |" in card
        assert "| stands in | `index/` |" in card
        assert str(tmp_path) not in card
    assert "| trained on | train.json, 16 questions |" in cards[""]
    parts = {"question_encoder": "question_encoder", "generator": "generator"}
    assert ModelCard(cards[""]).data.to_dict()["rag_finetune"] == parts


def test_without_validation_a_card_has_no_figures(tmp_path):
    train_tiny(tmp_path, save_index="none", max_steps=-1, num_train_epochs=0.5).finish({})
    card = (tmp_path / "run/README.md").read_text()
    assert "validation" not in card
    assert "| num_train_epochs | 0.5 |" in card and "max_steps" not in card
    assert "| stands in | a folder of its own, not here |" in card


# ---- The Hub ----


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub in a folder; what it was asked for is noted."""
    asked = []

    def create_repo(api, repo_id, **options):
        asked.append(("create", repo_id, options))

        class Url:
            pass

        Url.repo_id = repo_id if "/" in repo_id else f"me/{repo_id}"
        return Url

    def upload_folder(api, *, repo_id, folder_path, ignore_patterns, **options):
        asked.append(("upload", repo_id, options))
        files = [p.relative_to(folder_path) for p in Path(folder_path).rglob("*") if p.is_file()]
        for name in filter_repo_objects(map(str, files), ignore_patterns=ignore_patterns):
            target = tmp_path / "hub" / repo_id / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder_path) / name, target)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return asked


def test_the_finished_model_is_uploaded_with_card_tokenizers_and_index(tmp_path, hub):
    trainer = train_tiny(
        tmp_path,
        save_strategy="steps",
        save_steps=1,
        push_to_hub=True,
        hub_model_id="me/mine",
        hub_token="hf_secret",
        hub_private_repo=True,
        hub_revision="draft",
    )
    assert [what for what, *_ in hub] == ["create"]  # before training; none of the checkpoints
    assert hub[0][2] == {"token": "hf_secret", "private": True, "exist_ok": True}
    trainer.finish({})
    [(_, repo_id, options)] = hub[1:]
    assert repo_id == "me/mine"
    assert (options["token"], options["revision"]) == ("hf_secret", "draft")
    uploaded = tmp_path / "hub/me/mine"
    names = {path.name for path in uploaded.iterdir()}
    assert {"README.md", "model.safetensors", "generator_tokenizer", "index"} <= names
    assert "train_results.json" in names
    assert not [name for name in names if name.startswith("checkpoint")]
    assert 'snapshot_download("me/mine")' in (uploaded / "README.md").read_text()
    assert "generated from Trainer" not in (uploaded / "README.md").read_text()
    texts = [path.read_text() for path in uploaded.rglob("*.json")]
    assert not any("hf_secret" in text for text in texts)
    (tmp_path / "index").rename(tmp_path / "gone")
    loaded = load_rag(uploaded)
    assert len(loaded.retriever.index) == 20
    assert all(same(weights(trainer.rag.model), weights(loaded.model)).values())


def test_saving_alone_uploads_nothing(tmp_path, hub):
    trainer = train_tiny(tmp_path, push_to_hub=True, hub_token="hf_secret", save_index="none")
    trainer.save_model()
    assert [(what, name) for what, name, _ in hub] == [("create", "run")]
    trainer.finish({})
    assert hub[1][:2] == ("upload", "me/run")
    assert not (tmp_path / "hub/me/run/index").exists()


def test_a_failed_upload_says_where_the_model_is_and_what_to_do(tmp_path, hub, monkeypatch):
    trainer = train_tiny(tmp_path, push_to_hub=True, hub_token="hf_secret")

    def refuse(api, **options):
        raise ConnectionError("nobody answers.")

    monkeypatch.setattr(HfApi, "upload_folder", refuse)
    with pytest.raises(OSError, match=r"stands here.*nobody answers.*hf upload me/run"):
        trainer.finish({})
    assert (tmp_path / "run/train_results.json").is_file()
    load_rag(tmp_path / "run")
