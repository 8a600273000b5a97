"""The callbacks alone, and what SIGTERM does to a run."""

import math
import os
import signal
import threading
import types

import pytest
import tiny_rag
import torch
from tiny_job import tiny_job
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.callbacks import (
    EpochTeller,
    LearningCheck,
    SaveOnSigterm,
    grad_norm_of,
    trainable_table,
)
from rag_finetune.training.rag_trainer import RagTrainer

STATE, CONTROL = TrainerState(), TrainerControl()


def arguments(**options):
    return types.SimpleNamespace(**({"fp16": False, "world_size": 1} | options))


def part(weight=1.0, grad=1.0):
    module = nn.Linear(3, 2)
    nn.init.constant_(module.weight, weight)
    if grad is not None:
        module.weight.grad = torch.full_like(module.weight, grad)
    return module


def optimizer(*parts, rate=0.1, **options):
    return torch.optim.SGD([p for module in parts for p in module.parameters()], lr=rate, **options)


def step(check, optimizer, args=None):
    """What the Trainer does around one step of the optimiser."""
    args = args or arguments()
    check.on_pre_optimizer_step(args, STATE, CONTROL)
    optimizer.step()
    check.on_optimizer_step(args, STATE, CONTROL, optimizer=optimizer)


# ---- LearningCheck ----


def test_parts_that_have_gradients_and_move_pass():
    parts = {"question_encoder": part(), "generator": part()}
    check = LearningCheck(parts)
    step(check, optimizer(*parts.values()))
    assert check.waiting is None


@pytest.mark.parametrize("grad", [None, 0.0])
def test_a_part_without_a_gradient_is_named(grad):
    check = LearningCheck({"question_encoder": part(), "generator": part(grad=grad)})
    with pytest.raises(ValueError, match="No gradient reaches generator: it is trainable and"):
        check.on_pre_optimizer_step(arguments(), STATE, CONTROL)


def test_one_passage_is_named_as_the_reason_for_the_question_encoder_alone():
    for name, hint in (("question_encoder", "raise --n_docs"), ("generator", "what cuts its")):
        check = LearningCheck({name: part(grad=0.0)}, n_docs=1)
        with pytest.raises(ValueError, match=hint):
            check.on_pre_optimizer_step(arguments(), STATE, CONTROL)


@pytest.mark.parametrize("grad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_named(grad):
    check = LearningCheck({"generator": part(grad=grad)})
    with pytest.raises(ValueError, match=f"The gradient of generator is {grad} at the first step"):
        check.on_pre_optimizer_step(arguments(), STATE, CONTROL)


def test_with_fp16_an_infinite_gradient_is_left_to_the_scaler():
    check = LearningCheck({"generator": part(grad=math.inf)})
    check.on_pre_optimizer_step(arguments(fp16=True), STATE, CONTROL)


def test_gradients_are_looked_at_once():
    module = part()
    check = LearningCheck({"generator": module})
    step(check, optimizer(module))
    module.weight.grad.zero_()
    step(check, optimizer(module))


def test_a_part_that_no_optimiser_moves_is_named():
    parts = {"question_encoder": part(), "generator": part()}
    check = LearningCheck(parts)
    with pytest.raises(ValueError, match=r"generator did not change in the first step.*\(0\.1\)"):
        step(check, optimizer(parts["question_encoder"]))


def test_a_rate_too_small_for_the_weights_is_named():
    module = part(weight=1.0)
    with pytest.raises(ValueError, match="Is the learning rate too small for its weights"):
        step(LearningCheck({"generator": module}), optimizer(module, rate=1e-12))


def test_steps_with_a_rate_of_zero_are_waited_for():
    module = part()
    check = LearningCheck({"generator": module})
    warming = optimizer(module, rate=0.0)
    step(check, warming)
    step(check, warming)
    assert check.waiting is not None
    warming.param_groups[0]["lr"] = 0.1
    step(check, warming)
    assert check.waiting is None


def test_a_step_that_the_scaler_skipped_is_waited_for():
    module = part()
    check = LearningCheck({"generator": module})
    skipped = optimizer(module)
    skipped.step_was_skipped = True
    check.on_pre_optimizer_step(arguments(), STATE, CONTROL)
    check.on_optimizer_step(arguments(), STATE, CONTROL, optimizer=skipped)
    assert check.waiting is not None
    skipped.step_was_skipped = False
    step(check, skipped)
    assert check.waiting is None


def test_one_weight_that_moves_is_enough():
    module = part()
    module.weight.grad[0, 1:] = 0.0
    module.weight.grad[1] = 0.0
    step(LearningCheck({"generator": module}), optimizer(module))


def test_weight_decay_of_what_has_no_gradient_is_no_learning():
    still, moving = part(grad=0.0), part()
    holder = nn.ModuleList([still, moving])
    check = LearningCheck({"generator": holder})
    # The optimiser has the still half alone: it decays, and nothing learns.
    with pytest.raises(ValueError, match="generator did not change"):
        step(check, optimizer(still, weight_decay=0.5))


# ---- Norms and the table ----


def test_the_norm_is_over_all_gradients():
    module = nn.Linear(2, 1)
    module.weight.grad = torch.tensor([[3.0, 0.0]])
    module.bias.grad = torch.tensor([4.0])
    assert grad_norm_of(module) == 5.0
    assert grad_norm_of(nn.Linear(2, 1)) == 0.0


def test_the_table_shows_what_trains_and_at_which_rate():
    parts = {"question_encoder": nn.Linear(999, 1), "generator": nn.Linear(1, 1)}
    rates = {"question_encoder": 1e-5, "generator": 3e-5}
    assert trainable_table(parts, ["generator"], rates).splitlines() == [
        "part              parameters  learning rate",
        "question_encoder  1,000       frozen",
        "generator         2           3e-05",
    ]


def test_where_adapters_learn_the_table_counts_them_alone():
    generator = nn.Sequential(nn.Linear(99, 10), nn.Linear(10, 2, bias=False))
    generator[0].requires_grad_(False)
    table = trainable_table({"generator": generator}, ["generator"], {"generator": 3e-5})
    assert table.splitlines()[1] == "generator  20 of 1,020  3e-05"


def test_a_part_that_is_not_loaded_is_in_the_table_too():
    rates = {"context_encoder": 1e-5, "generator": 3e-5}
    assert trainable_table({"generator": nn.Linear(1, 1)}, ["generator"], rates).splitlines() == [
        "part             parameters  learning rate",
        "generator        2           3e-05",
        "context_encoder  in index    frozen",
    ]


# ---- SaveOnSigterm ----


@pytest.fixture
def handler():
    """A handler of SIGTERM that must be given back."""
    received = []

    def ours(signum, frame):
        received.append(signum)

    before = signal.signal(signal.SIGTERM, ours)
    yield ours
    signal.signal(signal.SIGTERM, before)
    assert received == []


def test_the_signal_is_caught_in_training_and_given_back(handler):
    callback, control = SaveOnSigterm(), TrainerControl()
    callback.on_train_begin(arguments(), STATE, control)
    assert signal.getsignal(signal.SIGTERM) is not handler
    callback.on_step_end(arguments(), STATE, control)
    assert not (callback.stopped or control.should_save or control.should_training_stop)
    os.kill(os.getpid(), signal.SIGTERM)
    callback.on_step_end(arguments(), STATE, control)
    assert callback.stopped and control.should_save and control.should_training_stop
    callback.on_train_end(arguments(), STATE, control)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_second_run_starts_afresh(handler):
    callback = SaveOnSigterm()
    callback.on_train_begin(arguments(), STATE, TrainerControl())
    os.kill(os.getpid(), signal.SIGTERM)
    callback.on_step_end(arguments(), STATE, TrainerControl())
    callback.on_train_end(arguments(), STATE, TrainerControl())
    control = TrainerControl()
    callback.on_train_begin(arguments(), STATE, control)
    callback.on_step_end(arguments(), STATE, control)
    callback.on_train_end(arguments(), STATE, control)
    assert not callback.stopped
    assert not control.should_training_stop


def test_a_stop_leaves_no_time_for_an_evaluation(handler):
    callback, control = SaveOnSigterm(), TrainerControl(should_evaluate=True)
    callback.on_train_begin(arguments(), STATE, control)
    os.kill(os.getpid(), signal.SIGTERM)
    callback.on_step_end(arguments(), STATE, control)
    assert (control.should_save, control.should_evaluate) == (True, False)
    control.should_evaluate = True  # as the end of the epoch does
    callback.on_epoch_end(arguments(), STATE, control)
    assert (control.should_save, control.should_evaluate) == (False, False)
    callback.on_train_end(arguments(), STATE, control)


def test_outside_the_main_thread_nothing_is_caught(handler):
    callback, failed = SaveOnSigterm(), []

    def train():
        try:
            callback.on_train_begin(arguments(), STATE, TrainerControl())
            callback.on_step_end(arguments(), STATE, TrainerControl())
            callback.on_train_end(arguments(), STATE, TrainerControl())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert failed == []
    assert signal.getsignal(signal.SIGTERM) is handler


def test_the_signal_is_given_back_after_a_run_that_failed(handler, tmp_path):
    rag = load_rag(tiny_job() / "assembled")
    args = RagTrainingArguments(
        output_dir=str(tmp_path), n_docs=1, eval_strategy="no", disable_tqdm=True
    )
    with pytest.raises(ValueError, match="No gradient reaches question_encoder"):
        RagTrainer(rag, args, tiny_rag.questions(4)).train()
    assert signal.getsignal(signal.SIGTERM) is handler


class KillAtStep(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def killed(folder, **options):
    """A run of sixteen questions, four a step, that is killed in its third step."""
    rag = load_rag(tiny_job() / "assembled")
    args = RagTrainingArguments(
        output_dir=str(folder / "run"),
        num_train_epochs=3,
        learning_rate=1e-3,
        warmup_steps=0,
        max_target_length=8,
        disable_tqdm=True,
        **options,
    )
    questions = tiny_rag.questions(16)
    trainer = RagTrainer(rag, args, questions, tiny_rag.questions(4), callbacks=[KillAtStep(2)])
    trainer.train()
    assert trainer.sigterm.stopped
    return trainer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"eval_strategy": "no", "save_strategy": "no"},
        {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best"},
    ],
    ids=str,
)
def test_a_killed_run_leaves_a_checkpoint_of_its_last_step(tmp_path, options):
    trainer = killed(tmp_path, **options)
    assert trainer.state.global_step == 3
    assert (tmp_path / "run/checkpoint-3/trainer_state.json").exists()


def test_a_killed_run_saves_once_and_evaluates_no_more(tmp_path, monkeypatch):
    saved = []
    save = RagTrainer._save_checkpoint

    def spy(self, *args, **kwargs):
        saved.append(self.state.global_step)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(RagTrainer, "_save_checkpoint", spy)
    trainer = killed(tmp_path)
    assert not any("eval_loss" in entry for entry in trainer.state.log_history)
    assert saved == [3]


class Epochs:
    """A data set that remembers what it was told."""

    def __init__(self):
        self.told = []

    def set_epoch(self, epoch):
        self.told.append(epoch)


def test_a_data_set_is_told_its_epoch_also_where_a_run_goes_on_within_one():
    dataset, state = Epochs(), TrainerState()
    for epoch in (None, 1.0, 1.75, 2.0):
        state.epoch = epoch
        EpochTeller(dataset).on_epoch_begin(arguments(), state, CONTROL)
    assert dataset.told == [0, 1, 1, 2]


def test_a_random_target_is_drawn_for_its_epoch_after_a_resume_within_one(tmp_path):
    rows = [{**row, "answers": tiny_rag.COLOURS} for row in tiny_rag.questions(8).to_list()]
    questions = type(tiny_rag.questions(1)).from_list(rows)
    rag, drawn = tiny_rag.tiny_rag(tmp_path, dropout=0.0), {}
    for name, resume in (("whole", None), ("again", str(tmp_path / "whole/checkpoint-3"))):
        args = RagTrainingArguments(
            str(tmp_path / name), max_steps=4, per_device_train_batch_size=4, target="random",
            save_strategy="steps", save_steps=1, eval_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = RagTrainer(rag, args, questions)
        seen = drawn[name] = []
        collate = trainer.data_collator

        def noted(items, collate=collate, seen=seen):
            seen.append([item["target"] for item in items])
            return collate(items)

        trainer.data_collator = noted
        trainer.train(resume_from_checkpoint=resume)
    assert drawn["again"] == drawn["whole"][3:]  # the second half of the second epoch
