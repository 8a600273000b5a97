"""Training tiny models: what should move moves, what should stay is bit-identical."""

import json
import os
import signal
import warnings
from pathlib import Path

import pytest
import tiny_rag
import torch
from transformers import TrainerCallback

from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.rag.scoring import score_passages
from rag_finetune.training import rag_trainer
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.rag_trainer import RagTrainer


def train_tiny(folder: Path, *, rag=None, count=16, eval_questions=None, callbacks=None, **options):
    """Train a tiny model in folder/run; returns the trainer."""
    rag = rag or tiny_rag.tiny_rag(folder, dropout=options.pop("dropout", 0.0))
    resume = options.pop("resume", None)
    defaults = {
        "output_dir": str(folder / "run"),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "logging_steps": 1,
        "max_target_length": 8,
        "eval_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    args = RagTrainingArguments(**(defaults | options))
    trainer = RagTrainer(rag, args, tiny_rag.questions(count), eval_questions, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def logged(trainer: RagTrainer, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, bool]:
    return {name: torch.equal(first[name], second[name]) for name in first}


@pytest.mark.parametrize("model_type", ["rag_sequence", "rag_token"])
@pytest.mark.parametrize(
    "trainable",
    [["question_encoder"], ["generator"], ["question_encoder", "generator"]],
    ids="+".join,
)
def test_one_step_moves_what_is_trainable_and_nothing_else(tmp_path, trainable, model_type):
    rag = tiny_rag.tiny_rag(tmp_path, model_type=model_type)
    before = {name: weights(getattr(rag.model.rag, name)) for name in rag_trainer.PARTS}
    vectors = rag.retriever.index.gather(torch.arange(20).numpy())[1].copy()
    trainer = train_tiny(tmp_path, rag=rag, max_steps=1, trainable=trainable, weight_decay=0.1)
    for name, module in trainer.parts.items():
        equal = same(before[name], weights(module))
        if name not in trainable:
            assert all(equal.values())
            continue
        # Rows of words that did not occur, and key biases (softmax ignores them), get none.
        moved = {n for n, is_equal in equal.items() if not is_equal}
        assert {n for n in equal if n.endswith("weight")} - moved <= {
            n for n in equal if "final_layer_norm" in n
        }
        assert logged(trainer, f"grad_norm_{name}")[0] > 0
    assert (rag.retriever.index.gather(torch.arange(20).numpy())[1] == vectors).all()


def test_layouts_of_one_global_batch_give_the_same_loss_and_gradient_norm(tmp_path):
    figures = []
    for number, (batch_size, accumulation) in enumerate([(16, 1), (4, 4), (8, 2)]):
        trainer = train_tiny(
            tmp_path / str(number),
            max_steps=3,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
        )
        figures.append((logged(trainer, "loss"), logged(trainer, "grad_norm")))
    for losses, norms in figures[1:]:
        assert losses == pytest.approx(figures[0][0], rel=1e-4)
        assert norms == pytest.approx(figures[0][1], rel=1e-4)


def test_a_last_batch_that_is_smaller_counts_its_examples_only(tmp_path):
    whole = train_tiny(tmp_path / "a", count=5, max_steps=1, per_device_train_batch_size=5)
    parts = train_tiny(
        tmp_path / "b",
        count=5,
        max_steps=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
    )
    assert logged(parts, "loss") == pytest.approx(logged(whole, "loss"), rel=1e-5)
    assert logged(parts, "grad_norm") == pytest.approx(logged(whole, "grad_norm"), rel=1e-4)


def test_the_sum_is_the_loss_that_transformers_reports(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path, dropout=0.0)
    collate = rag_trainer.collator_for(rag, 64, 8)
    items = rag_trainer.as_items(tiny_rag.questions(4), "first", 0)
    batch = collate([items[row] for row in range(4)])
    with torch.no_grad():
        plain = rag.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
            reduce_loss=True,
        ).loss.item()
    trainer = train_tiny(
        tmp_path,
        rag=rag,
        count=4,
        max_steps=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        loss_reduction="sum",
    )
    assert logged(trainer, "loss")[0] == pytest.approx(plain, rel=1e-5)


def test_a_part_without_gradient_stops_the_run_and_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"No gradient reaches question_encoder.*n_docs 1"):
        train_tiny(tmp_path, n_docs=1)


def test_a_gradient_that_is_cut_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(rag_trainer, "score_passages", lambda *args: score_passages(*args).detach())
    with pytest.raises(ValueError, match="No gradient reaches question_encoder"):
        train_tiny(tmp_path)


def test_weights_that_do_not_move_stop_the_run(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    args = RagTrainingArguments(
        output_dir=str(tmp_path / "run"), warmup_steps=0, eval_strategy="no", disable_tqdm=True
    )
    foreign = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    trainer = RagTrainer(rag, args, tiny_rag.questions(), optimizers=(foreign, None))
    with pytest.raises(ValueError, match="question_encoder did not change in the first step"):
        trainer.train()


def test_warm_up_from_zero_is_no_reason_to_stop(tmp_path):
    trainer = train_tiny(tmp_path, warmup_steps=1, max_steps=3)
    assert logged(trainer, "learning_rate")[0] == 0.0
    assert trainer.state.global_step == 3


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    with torch.no_grad():
        rag.model.generator.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="The loss is nan at step 1"):
        train_tiny(tmp_path, rag=rag)


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "dropout": 0.1}
    whole = train_tiny(tmp_path / "whole", target="random", **options)
    checkpoint = tmp_path / "whole/run/checkpoint-3"
    resumed = train_tiny(tmp_path / "again", target="random", resume=str(checkpoint), **options)
    assert resumed.state.global_step == 6
    assert all(same(weights(whole.rag.model), weights(resumed.rag.model)).values())


def test_frozen_parts_run_without_dropout(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path, dropout=0.5)
    seen = []
    rag.model.question_encoder.register_forward_hook(
        lambda module, inputs, output: seen.append((module.training, output[0].detach()))
    )
    train_tiny(tmp_path, rag=rag, trainable=["generator"], count=4, max_steps=2, seed=1)
    assert len(seen) == 2
    assert not any(training for training, _ in seen)


def test_eval_figures_do_not_depend_on_the_batch_size(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    found = []
    for batch_size in (4, 8, 21):
        args = RagTrainingArguments(
            output_dir=str(tmp_path / "run"),
            per_device_eval_batch_size=batch_size,
            max_target_length=8,
            disable_tqdm=True,
        )
        trainer = RagTrainer(rag, args, None, tiny_rag.questions(21))
        output = trainer.predict(tiny_rag.questions(21))
        found.append((output, trainer.evaluate()))
    for output, metrics in found:
        assert metrics["eval_n_examples"] == 21
        assert metrics["eval_loss"] == pytest.approx(found[0][1]["eval_loss"], rel=1e-5)
        assert output.predictions.tolist() == found[0][0].predictions.tolist()
        assert output.label_ids.shape[0] == 21
        for key, value in found[0][1].items():
            if not any(word in key for word in ("second", "time", "loss")):
                assert metrics[key] == pytest.approx(value, abs=1e-6), key


def test_eval_loss_is_the_mean_negative_log_likelihood_of_the_first_answers(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    args = RagTrainingArguments(
        output_dir=str(tmp_path / "run"), max_target_length=8, disable_tqdm=True
    )
    questions = tiny_rag.questions(7)
    metrics = RagTrainer(rag, args, None, questions).evaluate()
    collate = rag_trainer.collator_for(rag, 64, 8)
    items = rag_trainer.as_items(questions, "first", 0)
    losses = []
    for row in range(7):
        batch = collate([items[row]])
        with torch.no_grad():
            losses.append(
                rag.model(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    labels=batch["labels"],
                ).loss.item()
            )
    assert metrics["eval_loss"] == pytest.approx(sum(losses) / 7, rel=1e-5)


def test_every_evaluation_reports_answers_recall_and_retrieval_health(tmp_path):
    trainer = train_tiny(
        tmp_path, eval_questions=tiny_rag.questions(8), eval_strategy="steps", eval_steps=1
    )
    entry = next(e for e in trainer.state.log_history if "eval_loss" in e)
    for name in (
        "exact_match f1 recall@1 recall@5 recall@20 mrr@10 answer_recall@5 distinct_passages "
        "top1_frequency doc_entropy n_examples"
    ).split():
        assert f"eval_{name}" in entry, name
    assert len(logged(trainer, "grad_norm_question_encoder")) == 2
    total = logged(trainer, "grad_norm")[0] ** 2
    parts = [logged(trainer, f"grad_norm_{name}")[0] ** 2 for name in rag_trainer.PARTS]
    assert sum(parts) == pytest.approx(total, rel=1e-4)


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


def test_early_stopping_ends_a_run_that_gets_no_better(tmp_path):
    trainer = train_tiny(
        tmp_path,
        eval_questions=tiny_rag.questions(4),
        max_steps=10,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        early_stopping_patience=2,
    )
    assert trainer.state.global_step < 10


class KillAtStep(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_leaves_a_checkpoint_from_which_the_run_goes_on(tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    trainer = train_tiny(tmp_path, max_steps=5, callbacks=[KillAtStep(2)])
    assert trainer.sigterm.stopped
    assert trainer.state.global_step == 3
    assert signal.getsignal(signal.SIGTERM) is handler
    whole = train_tiny(tmp_path / "whole", max_steps=5)
    resumed = train_tiny(tmp_path / "again", max_steps=5, resume=str(tmp_path / "run/checkpoint-3"))
    assert not resumed.sigterm.stopped
    assert all(same(weights(whole.rag.model), weights(resumed.rag.model)).values())


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_a_run_ended_by_sigterm_goes_on_to_the_same_bits_with_evaluations_too(tmp_path, strategy):
    options = {
        "dropout": 0.1,
        "eval_questions": tiny_rag.questions(4),
        "max_steps": 6,
        "eval_strategy": strategy,
        "save_strategy": strategy,
        "eval_steps": 2,
        "save_steps": 2,
    }
    whole = train_tiny(tmp_path / "whole", **options, load_best_model_at_end=False)
    killed = train_tiny(
        tmp_path / "killed", **options, callbacks=[KillAtStep(2)], load_best_model_at_end=False
    )
    assert killed.state.global_step == 3
    assert not any(e["step"] == 3 for e in killed.state.log_history if "eval_loss" in e)
    resumed = train_tiny(
        tmp_path / "again",
        **options,
        load_best_model_at_end=False,
        resume=str(tmp_path / "killed/run/checkpoint-3"),
    )
    assert all(same(weights(whole.rag.model), weights(resumed.rag.model)).values())


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


def test_a_generation_config_of_ones_own_keeps_the_special_tokens(tmp_path):
    from transformers import GenerationConfig

    rag = tiny_rag.tiny_rag(tmp_path)
    start = rag.model.generator.generation_config.decoder_start_token_id
    args = RagTrainingArguments(
        output_dir=str(tmp_path / "run"),
        eval_strategy="no",
        generation_config=GenerationConfig(num_beams=2),
    )
    RagTrainer(rag, args, tiny_rag.questions())
    settings = rag.model.generator.generation_config
    assert (settings.num_beams, settings.decoder_start_token_id) == (2, start)
    assert settings.max_length == args.max_target_length


def test_a_longer_target_raises_the_length_of_answers(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    for length in (8, 32):
        args = RagTrainingArguments(
            output_dir=str(tmp_path / "run"), eval_strategy="no", max_target_length=length
        )
        RagTrainer(rag, args, tiny_rag.questions())
        assert rag.model.generator.generation_config.max_length == length


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


@pytest.mark.parametrize("workers", [0, 2])
def test_other_questions_than_before_are_really_evaluated(tmp_path, workers):
    rag = tiny_rag.tiny_rag(tmp_path)
    args = RagTrainingArguments(
        output_dir=str(tmp_path / "run"),
        disable_tqdm=True,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        metric_for_best_model="near_exact_match",
    )
    sets = {"near": tiny_rag.questions(3), "far": tiny_rag.questions(7)}
    trainer = RagTrainer(rag, args, None, sets)
    metrics = trainer.evaluate()
    assert (metrics["eval_near_n_examples"], metrics["eval_far_n_examples"]) == (3, 7)
    for count in (5, 2):
        assert trainer.evaluate(tiny_rag.questions(count))["eval_n_examples"] == count


def test_what_only_the_evaluation_would_miss_is_refused_before_training(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    args = RagTrainingArguments(output_dir=str(tmp_path / "run"))
    bare = tiny_rag.questions(3).remove_columns(["positive_ids"])
    with pytest.raises(ValueError, match='"positive_ids" is missing'):
        RagTrainer(rag, args, tiny_rag.questions(3), bare)
    with pytest.raises(ValueError, match=r"metric_for_best_model must be one of near_\w+"):
        RagTrainer(rag, args, tiny_rag.questions(3), {"near": tiny_rag.questions(3)})
    unknown = tiny_rag.questions(3).map(lambda row: {"positive_ids": ["nonsense"]})
    with pytest.warns(UserWarning, match="1 positive_ids are neither the id"):
        RagTrainer(rag, args, tiny_rag.questions(3), unknown)
    with pytest.raises(ValueError, match="compute_loss_func cannot be used"):
        RagTrainer(rag, args, tiny_rag.questions(3), unknown, compute_loss_func=print)


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


def test_bf16_gives_a_finite_loss_close_to_float32_and_scores_in_float32(tmp_path, monkeypatch):
    seen = []

    def spy(*args):
        seen.append(score_passages(*args))
        return seen[-1]

    monkeypatch.setattr(rag_trainer, "score_passages", spy)
    exact = train_tiny(tmp_path / "a")
    rounded = train_tiny(tmp_path / "b", bf16=True)
    assert logged(rounded, "loss") == pytest.approx(logged(exact, "loss"), rel=2e-2)
    assert all(scores.dtype == torch.float32 for scores in seen)
    assert all(p.dtype == torch.float32 for p in rounded.rag.model.parameters())


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_activation_checkpointing_changes_neither_loss_nor_gradients(tmp_path, kind):
    plain = train_tiny(tmp_path / "a", rag=tiny_rag.tiny_rag(tmp_path / "a", kind, dropout=0.0))
    rag = tiny_rag.tiny_rag(tmp_path / "b", kind, dropout=0.0)
    trainer = train_tiny(tmp_path / "b", rag=rag, activation_checkpointing=True)
    assert rag.model.generator.is_activation_checkpointing
    assert rag.model.question_encoder.question_encoder.bert_model.is_activation_checkpointing
    assert logged(trainer, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-6)
    assert logged(trainer, "grad_norm") == pytest.approx(logged(plain, "grad_norm"), rel=1e-5)


def test_the_question_encoder_can_have_a_learning_rate_of_its_own(tmp_path):
    trainer = train_tiny(
        tmp_path, learning_rate_question_encoder=1e-5, max_steps=1, lr_scheduler_type="constant"
    )
    rates = {}
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            rates[id(parameter)] = group["lr"]
    for name, rate in (("question_encoder", 1e-5), ("generator", 1e-3)):
        module = trainer.parts[name]
        assert {rates[id(p)] for p in module.parameters()} == {rate}, name
    assert "1e-05" in trainer.describe()


def test_label_smoothing_is_part_of_the_loss(tmp_path):
    plain = train_tiny(tmp_path / "a", max_steps=1)
    smooth = train_tiny(tmp_path / "b", max_steps=1, label_smoothing_factor=0.1)
    assert logged(smooth, "loss")[0] != pytest.approx(logged(plain, "loss")[0], rel=1e-3)


def test_workers_that_load_data_do_not_hang_and_change_nothing(tmp_path):
    alone = train_tiny(tmp_path / "a", eval_questions=tiny_rag.questions(4), eval_strategy="epoch")
    helped = train_tiny(
        tmp_path / "b",
        eval_questions=tiny_rag.questions(4),
        eval_strategy="epoch",
        dataloader_num_workers=2,
    )
    assert logged(helped, "loss") == logged(alone, "loss")


def test_target_all_trains_on_every_gold_answer(tmp_path):
    questions = tiny_rag.questions(3).map(lambda row: {"answers": [*row["answers"], "red"]})
    rag = tiny_rag.tiny_rag(tmp_path)
    args = RagTrainingArguments(output_dir=str(tmp_path / "run"), target="all", max_steps=1)
    assert len(RagTrainer(rag, args, questions).train_dataset) == 6


def test_without_eval_dataset_nothing_is_evaluated_and_it_says_so(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    args = RagTrainingArguments(output_dir=str(tmp_path / "run"))
    with pytest.warns(UserWarning, match="nothing is evaluated"):
        trainer = RagTrainer(rag, args, tiny_rag.questions())
    assert trainer.args.eval_strategy == "no"


def test_several_eval_sets_are_evaluated_by_name(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    args = RagTrainingArguments(output_dir=str(tmp_path / "run"), disable_tqdm=True)
    sets = {"near": tiny_rag.questions(3), "far": tiny_rag.questions(2)}
    metrics = RagTrainer(rag, args, None, sets).evaluate()
    assert metrics["eval_near_n_examples"] == 3
    assert metrics["eval_far_n_examples"] == 2
    with pytest.raises(ValueError, match="found a dict with near, far"):
        RagTrainer(rag, args, sets)


def test_a_users_compute_metrics_gets_token_ids(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    args = RagTrainingArguments(
        output_dir=str(tmp_path / "run"), disable_tqdm=True, max_target_length=8
    )

    def count(prediction):
        assert prediction.predictions.dtype.kind == "i"
        return {"rows": len(prediction.predictions)}

    trainer = RagTrainer(rag, args, None, tiny_rag.questions(5), compute_metrics=count)
    assert trainer.evaluate()["eval_rows"] == 5


def test_reports_go_where_report_to_says(tmp_path):
    train_tiny(tmp_path, report_to="tensorboard")
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


def test_a_model_without_a_retriever_is_refused(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    bare = load_rag(tmp_path / "assembled", with_index=False)
    args = RagTrainingArguments(output_dir=str(tmp_path / "run"), eval_strategy="no")
    with pytest.raises(ValueError, match="load the model with its index"):
        RagTrainer(bare, args, tiny_rag.questions())
    assert rag.retriever is not None


def test_lengths_beyond_the_generators_positions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at most 128, the generator's positions"):
        train_tiny(tmp_path, max_combined_length=200)


def test_a_collapse_is_warned_about(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    with torch.no_grad():
        for parameter in rag.model.question_encoder.parameters():
            parameter.zero_()
    args = RagTrainingArguments(output_dir=str(tmp_path / "run"), disable_tqdm=True)
    trainer = RagTrainer(rag, args, None, tiny_rag.questions(20))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metrics = trainer.evaluate()
    assert metrics["eval_top1_frequency"] == 1.0
    assert any("the question encoder may have collapsed" in str(w.message) for w in caught)


def test_what_will_be_cut_is_said_before_training(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    rows = tiny_rag.questions(3).map(
        lambda row, number: {
            "question": row["question"] + " the house" * (10 * number),
            "answers": ["red blue green black white grey"] if number else row["answers"],
        },
        with_indices=True,
    )
    args = RagTrainingArguments(
        output_dir=str(tmp_path / "run"),
        eval_strategy="no",
        max_question_length=20,
        max_target_length=6,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        RagTrainer(rag, args, rows)
    said = " ".join(str(warning.message) for warning in caught)
    assert (
        "2 of 3 questions are longer than 20 tokens and lose their end; the first is row 1" in said
    )
    assert "2 of 3 answers are longer than max_target_length 6" in said


def test_a_question_that_leaves_no_room_is_refused_before_training(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)  # max_combined_length 40
    rows = tiny_rag.questions(2).map(lambda row: {"question": "the house " * 30})
    args = RagTrainingArguments(output_dir=str(tmp_path / "run"), eval_strategy="no")
    with pytest.raises(ValueError, match="does not fit into max_combined_length 40"):
        RagTrainer(rag, args, rows)
