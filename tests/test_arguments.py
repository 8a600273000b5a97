"""Training arguments: defaults, refusals, and a word on every inherited one."""

import dataclasses
import json
import math
import os
import warnings

import pytest
import tiny_rag
import torch
from tiny_job import tiny_job
from transformers import GenerationConfig, Seq2SeqTrainingArguments
from transformers.utils import logging

from rag_finetune.evaluation import evaluate
from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.training.arguments import ANSWER_METRICS, RagTrainingArguments
from rag_finetune.training.options import REFUSED, RagOptions
from rag_finetune.training.rag_trainer import RagTrainer

# Inherited arguments that are neither refused nor given another default, by how we know that they
# work. "run": a run below; "loop": the Trainer's own loop reads them, and nothing of ours does.
WORKS = {
    "accelerator_config": "run",
    "activation_checkpointing": "test_rag_trainer.py",
    "activation_checkpointing_kwargs": "run",
    "adam_beta1": "loop",
    "adam_beta2": "loop",
    "adam_epsilon": "loop",
    "bf16_full_eval": "run",
    "data_seed": "run",
    "dataloader_in_order": "run",
    "dataloader_multiprocessing_context": "run, slow",
    "dataloader_num_workers": "test_rag_trainer.py",
    "dataloader_persistent_workers": "run",
    "dataloader_pin_memory": "needs CUDA",
    "dataloader_prefetch_factor": "run",
    "ddp_backend": "several processes",
    "ddp_broadcast_buffers": "several processes",
    "ddp_bucket_cap_mb": "several processes",
    "ddp_static_graph": "several processes",
    "ddp_timeout": "several processes",
    "disable_tqdm": "loop",
    "eval_delay": "run",
    "eval_on_start": "run",
    "eval_steps": "run",
    "fp16": "needs CUDA",
    "fp16_full_eval": "needs CUDA",
    "full_determinism": "run",
    "generation_config": "run",
    "generation_max_length": "run",
    "generation_num_beams": "run",
    "gradient_accumulation_steps": "test_rag_trainer.py",
    "gradient_checkpointing": "run",
    "gradient_checkpointing_kwargs": "run",
    "greater_is_better": "run",
    "hub_model_id": "test_rag_saver.py",
    "hub_private_repo": "test_rag_saver.py",
    "hub_revision": "test_rag_saver.py",
    "hub_token": "test_rag_saver.py",
    "ignore_data_skip": "run",
    "include_num_input_tokens_seen": "run",
    "label_smoothing_factor": "test_rag_trainer.py",
    "log_level": "run",
    "log_level_replica": "several processes",
    "log_on_each_node": "several processes",
    "logging_first_step": "run",
    "logging_strategy": "run",
    "lr_scheduler_kwargs": "run",
    "lr_scheduler_type": "run",
    "max_grad_norm": "run",
    "max_steps": "run",
    "num_train_epochs": "run",
    "optim": "run",
    "optim_args": "run",
    "optim_target_modules": "read by optimisers that are packages of their own",
    "output_dir": "run",
    "prediction_loss_only": "run",
    "project": "handed to what --report_to names",
    "push_to_hub": "test_rag_saver.py",
    "report_to": "test_rag_trainer.py",
    "restore_callback_states_from_checkpoint": "run",
    "resume_from_checkpoint": "test_cli_train.py",
    "run_name": "handed to what --report_to names",
    "save_on_each_node": "several processes",
    "save_only_model": "run",
    "save_steps": "run",
    "seed": "run",
    "skip_memory_metrics": "run, slow",
    "tf32": "needs CUDA",
    "torch_empty_cache_steps": "run",
    "trackio_bucket_id": "handed to what --report_to names",
    "trackio_space_id": "handed to what --report_to names",
    "trackio_static_space_id": "handed to what --report_to names",
    "train_sampling_strategy": "run",
    "use_cpu": "test_two_processes.py",
    "weight_decay": "run",
}

REFUSED_VALUES = {
    "average_tokens_across_devices": False,
    "eval_do_concat_batches": False,
    "eval_accumulation_steps": 2,
    "include_for_metrics": ["inputs"],
    "label_names": ["labels"],
    "length_column_name": "size",
    "local_rank": 0,
    "neftune_noise_alpha": 5.0,
    "liger_kernel_config": {"rope": True},
    "fsdp": "full_shard",
    "fsdp_config": {"min_num_params": 1},
    "deepspeed": "deepspeed.json",
    "debug": "underflow_overflow",
    "parallelism_config": object(),
    "torch_compile_backend": "inductor",
    "torch_compile_mode": "default",
}


def arguments(**options):
    return RagTrainingArguments(**{"output_dir": "run"} | options)


# ---- Every inherited argument ----


def test_every_inherited_argument_is_accounted_for():
    inherited = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)}
    overridden = set(RagTrainingArguments.__annotations__)
    assert overridden <= inherited
    assert set(REFUSED) <= inherited
    assert set(WORKS) == inherited - overridden - set(REFUSED)


def test_our_own_options_are_new_names():
    ours = {field.name for field in dataclasses.fields(RagOptions)}
    assert ours & {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)} == set()


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_argument_is_refused_by_name_with_the_reason(name):
    value = REFUSED_VALUES.get(name, True)
    options = {"eval_strategy": "no"} if name == "do_eval" else {}
    with pytest.raises(ValueError) as error:
        arguments(**{name: value}, **options)
    message = str(error.value)
    assert message.startswith(f"--{name} ")
    assert message.endswith(f"cannot be used: {REFUSED[name]}.")


@pytest.mark.parametrize("name", REFUSED)
def test_the_default_of_a_refused_argument_is_taken(name):
    (field,) = (f for f in dataclasses.fields(RagTrainingArguments) if f.name == name)
    if field.default is not dataclasses.MISSING:
        arguments(**{name: field.default})


def test_an_upload_that_could_not_succeed_is_refused_before_training(monkeypatch):
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        arguments(push_to_hub=True, hub_token="hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("rag_finetune.training.arguments.get_token", lambda: None)
    with pytest.raises(ValueError, match=r"needs a token .* `hf auth login`"):
        arguments(push_to_hub=True)
    args = arguments(push_to_hub=True, hub_token="hf_secret")
    assert "hf_secret" not in json.dumps(args.public_dict())
    dataclasses.replace(args)  # which gives the strategy as Transformers keeps it
    monkeypatch.setattr("rag_finetune.training.arguments.get_token", lambda: "hf_stored")
    assert arguments(push_to_hub=True).hub_strategy == "end"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hub_strategy": "every_save"}, 'hub_strategy must be end, found "every_save"'),
        ({"hub_model_id": "me/mine"}, "--hub_model_id goes with --push_to_hub"),
        ({"hub_token": "hf_secret"}, "--hub_token goes with --push_to_hub"),
    ],
)
def test_options_of_an_upload_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        arguments(**options)
    assert message in str(error.value)
    assert "hf_secret" not in str(error.value)


def test_sampling_by_length_is_refused():
    with pytest.raises(
        ValueError, match="--train_sampling_strategy group_by_length cannot be used"
    ):
        arguments(train_sampling_strategy="group_by_length")


def test_arguments_can_be_made_from_arguments():
    first = arguments(max_steps=7, n_docs=3)
    again = dataclasses.replace(first, seed=7)
    assert again.to_dict() == first.to_dict() | {"seed": 7}


def test_arguments_can_be_made_from_arguments_as_data():
    first = arguments(max_steps=7, n_docs=3)
    again = RagTrainingArguments(**first.to_dict())
    assert again.hub_token is None
    assert again.to_dict() == first.to_dict()


# ---- Defaults, and what depends on one another ----


def test_the_defaults_are_those_that_are_documented():
    args = arguments()
    expected = {
        "learning_rate": 3e-5,
        "warmup_steps": 0.1,
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 8,
        "max_grad_norm": 1.0,
        "save_total_limit": 2,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "exact_match",
        "greater_is_better": True,
        "logging_nan_inf_filter": False,
        "predict_with_generate": True,
        "trainable": ["question_encoder", "generator"],
        "max_question_length": 128,
        "max_target_length": 64,
        "report_to": [],
    }
    assert {name: getattr(args, name) for name in expected} == expected


@pytest.mark.parametrize("option", ["predict_with_generate", "prediction_loss_only"])
def test_without_answers_the_loss_chooses_the_best_model(option):
    args = arguments(**{option: option == "prediction_loss_only"})
    assert (args.predict_with_generate, args.metric_for_best_model) == (False, "loss")
    assert args.greater_is_better is False


@pytest.mark.parametrize(
    ("eval_strategy", "save_strategy", "keeps"),
    [
        ("no", "epoch", False),
        ("epoch", "no", False),
        ("epoch", "epoch", True),
        ("steps", "steps", True),
        ("steps", "best", True),
    ],
)
def test_the_best_model_is_kept_where_it_can_be(eval_strategy, save_strategy, keeps):
    options = {"eval_steps": 5, "save_steps": 5}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        args = arguments(eval_strategy=eval_strategy, save_strategy=save_strategy, **options)
    assert args.load_best_model_at_end is keeps


def test_that_the_best_model_is_not_kept_is_said():
    with pytest.warns(UserWarning, match="steps and save_strategy epoch differ: the last model"):
        args = arguments(eval_strategy="steps", eval_steps=5)
    assert args.load_best_model_at_end is False


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "greedy"])
@pytest.mark.parametrize(("metric", "mode"), [("exact_match", "max"), ("loss", "min")])
def test_a_scheduler_that_follows_the_metric_knows_which_way_is_up(name, metric, mode):
    args = arguments(lr_scheduler_type=name, metric_for_best_model=metric)
    assert args.lr_scheduler_kwargs == {"mode": mode}
    kwargs = '{"mode": "min", "patience": 2}'
    args = arguments(lr_scheduler_type=name, lr_scheduler_kwargs=kwargs)
    assert args.lr_scheduler_kwargs == {"mode": "min", "patience": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable": []}, "one or more of question_encoder, context_encoder, generator"),
        ({"trainable": ["reader"]}, "found reader"),
        ({"n_docs": 0}, "n_docs must be at least 1, found 0"),
        ({"max_question_length": 0}, "max_question_length must be at least 1"),
        ({"max_combined_length": -5}, "max_combined_length must be at least 1"),
        ({"early_stopping_patience": 0}, "early_stopping_patience must be at least 1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be at least 1"),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, found 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0, found nan"),
        ({"learning_rate_question_encoder": 0.0}, "is left out of --trainable"),
        ({"learning_rate_context_encoder": -1.0}, "learning_rate_context_encoder must be above 0"),
        ({"num_train_epochs": 0}, "num_train_epochs must be above 0"),
        ({"label_smoothing_factor": 1.0}, "from 0 to below 1, found 1.0"),
        ({"label_smoothing_factor": -0.1}, "from 0 to below 1, found -0.1"),
        ({"passage_loss_weight": 1.0}, "passage_loss_weight must be from 0 to below 1, found 1.0"),
        ({"passage_loss_weight": math.nan}, "from 0 to below 1, found nan"),
        ({"doubt_weight": -0.1}, "doubt_weight must be 0 or more, found -0.1"),
        ({"doubt_weight": math.nan}, "doubt_weight must be 0 or more, found nan"),
        ({"doubt_weight": math.inf}, "doubt_weight must be 0 or more, found inf"),
        ({"target": "last"}, 'target must be one of first, random, all, found "last"'),
        ({"decoding": "quick"}, 'decoding must be one of thorough, fast, found "quick"'),
        ({"loss_reduction": "median"}, "loss_reduction must be one of mean, sum"),
        ({"save_index": "yes"}, "save_index must be one of copy, link, none"),
        ({"eval_strategy": "no", "early_stopping_patience": 2}, "needs evaluations"),
        ({"eval_strategy": "no", "save_strategy": "best"}, "save_strategy best needs evaluations"),
        ({"eval_strategy": "no", "lr_scheduler_type": "greedy"}, "requires an eval strategy"),
        (
            {"learning_rate_question_encoder": 1e-5, "trainable": ["generator"]},
            "the question encoder does not learn: add it to --trainable",
        ),
        ({"learning_rate_context_encoder": 1e-5}, "the context encoder does not learn: add it"),
        ({"index_refresh": "blocking"}, "index_refresh is set, but the context encoder does not"),
        ({"index_refresh_steps": 9}, "index_refresh_steps is set, but the context encoder does"),
        ({"index_refresh": "often"}, "one of background, blocking, none, found .often"),
        ({"index_refresh_steps": 0}, "index_refresh_steps must be at least 1, found 0"),
        (
            {
                "trainable": ["context_encoder"],
                "index_refresh": "none",
                "index_refresh_steps": 9,
            },
            "index_refresh is none: leave one of them out",
        ),
        ({"index_refresh_overlap": 0.5}, "index_refresh_overlap is set, but the context encoder"),
        ({"fresh_top": 20}, "fresh_top is set, but the context encoder does not learn"),
        (
            {"trainable": ["context_encoder"], "fresh_top": 0},
            "fresh_top must be at least 1, found 0",
        ),
        (
            {"trainable": ["context_encoder"], "index_refresh_overlap": 1.0},
            "index_refresh_overlap must be above 0 and below 1, found 1.0",
        ),
        (
            {
                "trainable": ["context_encoder"],
                "index_refresh": "none",
                "index_refresh_overlap": 0.5,
            },
            "index_refresh_overlap is set, but index_refresh is none",
        ),
        ({"trainable": ["context_encoder"], "save_index": "none"}, "choose copy or link"),
        (
            {
                "target": "random",
                "dataloader_num_workers": 1,
                "dataloader_persistent_workers": True,
            },
            "draws anew each epoch",
        ),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        arguments(**options)


@pytest.mark.parametrize("metric", [*ANSWER_METRICS, "eval_f1"])
def test_a_metric_of_answers_needs_answers(metric):
    assert arguments(metric_for_best_model=metric).metric_for_best_model == metric
    with pytest.raises(ValueError, match="needs answers"):
        arguments(metric_for_best_model=metric, predict_with_generate=False)


def test_epochs_do_not_matter_where_steps_are_given():
    assert arguments(max_steps=3, num_train_epochs=0).max_steps == 3


def test_processes_that_do_not_see_each_other_are_an_error(monkeypatch):
    args = arguments()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were started.*accelerate launch"):
        args._check_world()


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_a_launcher_that_cuts_the_model_into_shards_is_refused(monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ValueError, match=f"told to use {name}.*accelerate launch --multi_gpu"):
        arguments()


def test_of_several_gpus_one_is_used_and_the_launch_line_is_shown(monkeypatch):
    args = arguments()
    args._n_gpu = 4
    with pytest.warns(
        UserWarning, match="4 GPUs are here.*accelerate launch --multi_gpu --num_processes 4"
    ):
        args._check_world()
    assert args.n_gpu == 1


def test_a_plain_start_on_several_gpus_does_not_spread_the_model_over_threads(monkeypatch):
    from accelerate.state import AcceleratorState, PartialState

    # The machine is made to look as if it had four GPUs: as far as the arguments ask.
    for name, value in {
        "torch.cuda.is_available": True,
        "torch.cuda.device_count": 4,
        "torch.cuda.is_bf16_supported": True,
        "torch.cuda.set_device": None,
        "torch.cuda.current_device": 0,
        "torch.accelerator.is_available": True,
        "transformers.training_args.is_torch_bf16_gpu_available": True,
    }.items():
        monkeypatch.setattr(name, lambda *words, value=value, **more: value)
    try:
        with pytest.warns(UserWarning, match="4 GPUs are here, one is used"):
            args = arguments(per_device_train_batch_size=4)
        assert (args.device.type, args.n_gpu, args.train_batch_size) == ("cuda", 1, 4)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()


def test_the_arguments_as_data_hold_no_path_and_no_token(tmp_path):
    GenerationConfig(num_beams=2).save_pretrained(tmp_path)
    args = arguments(output_dir=str(tmp_path), run_name=str(tmp_path), generation_config=tmp_path)
    args.hub_token = "hf_secret"  # as with --push_to_hub
    text = json.dumps(args.public_dict())
    assert str(tmp_path) not in text
    assert "hf_secret" not in text
    assert json.loads(text)["learning_rate"] == 3e-5
    given = arguments(generation_config=GenerationConfig(num_beams=2)).public_dict()
    assert json.loads(json.dumps(given))["generation_config"]["num_beams"] == 2


# ---- Runs with those that are easy to get wrong ----


@pytest.fixture
def train(tmp_path):
    """Train from the assembled checkpoint, dropout off; returns the trainer."""

    def run(*, evaluate_on=0, count=8, folder="run", resume=None, only_build=False, **options):
        rag = load_rag(tiny_job() / "assembled")
        for module in rag.model.modules():
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
            elif isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        defaults = {
            "output_dir": str(tmp_path / folder),
            "max_steps": 4,
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "logging_steps": 1,
            "max_target_length": 8,
            "eval_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        if evaluate_on:
            defaults |= {"eval_strategy": "steps", "eval_steps": 1}
        args = RagTrainingArguments(**(defaults | options))
        evaluated = tiny_rag.questions(evaluate_on) if evaluate_on else None
        trainer = RagTrainer(rag, args, tiny_rag.questions(count), evaluated)
        if not only_build:
            trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def checkpoints(trainer):
    folders = os.listdir(trainer.args.output_dir)
    return sorted(name for name in folders if name.startswith("checkpoint-"))


def rows_trained_on(train, **options):
    """The rows of each batch of an epoch, in their order."""
    loader = train(only_build=True, **options).get_train_dataloader()
    return [batch["rows"].tolist() for batch in loader]


def test_cosine_follows_a_cosine(train):
    rates = logged(train(lr_scheduler_type="cosine"), "learning_rate")
    expected = [5e-4 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "kwargs", "last"),
    [
        ("polynomial", None, 1e-3 / 4),
        ("constant", None, 1e-3),
        ("constant_with_warmup", None, 1e-3),
        ("inverse_sqrt", {"timescale": 1}, 1e-3 / 2),
        ("cosine_with_min_lr", '{"min_lr": 5e-4}', None),
        ("cosine_with_restarts", {"num_cycles": 2}, None),
        ("warmup_stable_decay", {"num_decay_steps": 2}, None),
    ],
)
def test_a_scheduler_sets_both_parts(train, name, kwargs, last):
    trainer = train(
        lr_scheduler_type=name, lr_scheduler_kwargs=kwargs, learning_rate_question_encoder=1e-4
    )
    rates = logged(trainer, "learning_rate")
    assert len(rates) == 4 and all(0 < rate <= 1e-3 for rate in rates)
    if last is not None:
        assert rates[-1] == pytest.approx(last, rel=1e-2)
    groups = {round(g["lr"] / g["initial_lr"], 6) for g in trainer.optimizer.param_groups}
    assert len(groups) == 1  # the two parts move together


@pytest.mark.parametrize("greater_is_better", [False, True])
def test_a_plateau_is_seen_in_the_direction_of_the_metric(train, greater_is_better):
    trainer = train(
        evaluate_on=4,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0},
        metric_for_best_model="loss",
        greater_is_better=greater_is_better,
    )
    assert logged(trainer, "eval_loss") == sorted(logged(trainer, "eval_loss"), reverse=True)
    expected = [1e-3, 1e-3, 1e-4, 1e-5] if greater_is_better else [1e-3] * 4
    assert logged(trainer, "learning_rate") == pytest.approx(expected)


def test_greedy_raises_the_rate_while_the_metric_gets_better(train):
    trainer = train(
        evaluate_on=4,
        lr_scheduler_type="greedy",
        lr_scheduler_kwargs={"patience": 0},
        metric_for_best_model="loss",
    )
    rates = logged(trainer, "learning_rate")
    assert rates == sorted(rates) and rates[-1] > rates[0]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"optim": "adafactor"}, "Adafactor"),
        ({"optim": "sgd", "optim_args": "momentum=0.9"}, "SGD"),
        ({"optim": "adagrad"}, "Adagrad"),
        ({"optim": "rmsprop"}, "RMSprop"),
        ({"optim": "adamw_torch", "adam_beta1": 0.8}, "AdamW"),
    ],
)
def test_an_optimiser_moves_both_parts_at_their_rates(train, options, name):
    trainer = train(learning_rate_question_encoder=1e-4, lr_scheduler_type="constant", **options)
    assert type(trainer.optimizer.optimizer).__name__ == name
    ours = {id(p) for p in trainer.parts["question_encoder"].parameters()}
    for group in trainer.optimizer.param_groups:
        inside = {id(p) in ours for p in group["params"]}
        assert inside in ({True}, {False})
        assert group["lr"] == (1e-4 if inside == {True} else 1e-3)
    if name == "SGD":
        assert all(group["momentum"] == 0.9 for group in trainer.optimizer.param_groups)
    before = load_rag(tiny_job() / "assembled").model.state_dict()
    for part in trainer.parts:
        moved = [
            not torch.equal(tensor, before[f"rag.{part}.{key}"])
            for key, tensor in trainer.parts[part].state_dict().items()
        ]
        assert any(moved), part


def test_weight_decay_is_on_matrices_alone_also_with_two_rates(train):
    trainer = train(weight_decay=0.1, learning_rate_question_encoder=1e-4)
    for group in trainer.optimizer.param_groups:
        dimensions = {parameter.ndim > 1 for parameter in group["params"]}
        assert dimensions == ({True} if group["weight_decay"] else {False})
    assert {g["weight_decay"] for g in trainer.optimizer.param_groups} == {0.0, 0.1}


def test_without_clipping_the_norms_are_still_logged(train):
    clipped, free = train(max_grad_norm=0.5), train(max_grad_norm=0)
    assert logged(free, "grad_norm")[0] == pytest.approx(logged(clipped, "grad_norm")[0])
    squares = [norm**2 for norm in logged(free, "grad_norm_generator")]
    squares = [
        a + b**2 for a, b in zip(squares, logged(free, "grad_norm_question_encoder"), strict=True)
    ]
    assert squares == pytest.approx([norm**2 for norm in logged(free, "grad_norm")], rel=1e-4)


def test_logging_by_epoch_writes_a_line_an_epoch(train):
    trainer = train(logging_strategy="epoch")
    assert [e["step"] for e in trainer.state.log_history if "loss" in e] == [2, 4]


def test_the_first_step_is_logged_where_asked_for(train):
    trainer = train(logging_steps=3, logging_first_step=True)
    assert [e["step"] for e in trainer.state.log_history if "loss" in e] == [1, 3]


def test_saving_the_best_keeps_it_and_leaves_it_in_memory(train):
    trainer = train(
        evaluate_on=4,
        learning_rate=1.0,
        save_strategy="best",
        metric_for_best_model="loss",
        save_total_limit=1,
    )
    losses = logged(trainer, "eval_loss")
    best = losses.index(min(losses)) + 1
    assert checkpoints(trainer) == [f"checkpoint-{best}"]
    saved = load_rag(f"{trainer.args.output_dir}/checkpoint-{best}").model.state_dict()
    assert all(torch.equal(saved[k], v) for k, v in trainer.rag.model.state_dict().items())


def test_evaluation_on_start_comes_before_the_first_step(train):
    steps = [e["step"] for e in train(evaluate_on=3, eval_on_start=True).state.log_history]
    assert steps[0] == 0


def test_evaluation_can_be_delayed(train):
    trainer = train(evaluate_on=3, eval_delay=3)
    assert [e["step"] for e in trainer.state.log_history if "eval_loss" in e] == [3, 4]


@pytest.fixture
def keep_determinism():
    """Put back what full_determinism changes in the whole process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def test_full_determinism_gives_the_same_bits(train, keep_determinism):
    first, again = train(full_determinism=True), train(full_determinism=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert logged(first, "loss") == logged(again, "loss")


@pytest.mark.parametrize(("kind", "counts_padding"), [("all", True), ("non_padding", False)])
def test_the_tokens_seen_are_those_of_the_questions(train, kind, counts_padding):
    trainer = train(include_num_input_tokens_seen=kind, max_steps=2)
    expected = 0
    for batch in trainer.get_train_dataloader():
        mask = batch["attention_mask"]
        expected += mask.numel() if counts_padding else int(mask.sum())
    assert trainer.state.num_input_tokens_seen == expected


def test_workers_that_stay_change_nothing(train):
    alone = train(num_train_epochs=2, max_steps=-1)
    helped = train(
        num_train_epochs=2,
        max_steps=-1,
        evaluate_on=3,
        dataloader_num_workers=2,
        dataloader_persistent_workers=True,
        dataloader_prefetch_factor=2,
    )
    assert logged(helped, "loss") == pytest.approx(logged(alone, "loss"), rel=1e-6)


def test_batches_may_come_as_they_are_ready(train):
    trainer = train(dataloader_num_workers=2, dataloader_in_order=False)
    assert trainer.state.global_step == 4


@pytest.mark.slow
def test_workers_may_be_started_afresh(train):
    helped = train(dataloader_num_workers=1, dataloader_multiprocessing_context="spawn")
    assert logged(helped, "loss") == pytest.approx(logged(train(), "loss"), rel=1e-6)


def test_sequential_sampling_keeps_the_order_of_the_file(train):
    rows = rows_trained_on(train, train_sampling_strategy="sequential")
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_seeds_decide_the_order(train):
    first = rows_trained_on(train, seed=1)
    assert rows_trained_on(train, seed=1) == first
    assert rows_trained_on(train, seed=2) != first
    by_data_seed = rows_trained_on(train, seed=1, data_seed=7)
    assert by_data_seed != first
    assert rows_trained_on(train, seed=2, data_seed=7) == by_data_seed


def test_data_skip_can_be_left_out_on_resuming(train):
    options = {"count": 16, "save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    options |= {"save_total_limit": None}
    whole = train(**options)
    checkpoint = f"{whole.args.output_dir}/checkpoint-2"
    skipped = train(folder="a", resume=checkpoint, **options)
    afresh = train(folder="b", resume=checkpoint, ignore_data_skip=True, **options)
    assert skipped.state.global_step == afresh.state.global_step == 6
    assert logged(skipped, "loss") == logged(whole, "loss")
    assert logged(afresh, "loss")[2] != logged(whole, "loss")[2]


def test_early_stopping_goes_on_counting_where_its_state_is_restored(train):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 6, "evaluate_on": 3}
    options |= {"metric_for_best_model": "n_examples", "early_stopping_patience": 3}
    stopped = train(**options)
    assert stopped.state.global_step == 4  # 1 is the best, then three that are no better
    checkpoint = f"{stopped.args.output_dir}/checkpoint-4"
    resumed = train(
        folder="a", resume=checkpoint, restore_callback_states_from_checkpoint=True, **options
    )
    assert resumed.state.global_step == 5


def test_full_bf16_evaluation_is_close_to_float32(train):
    exact = train(evaluate_on=6).evaluate()
    trainer = train(evaluate_on=6, bf16_full_eval=True)
    assert {p.dtype for p in trainer.rag.model.parameters()} == {torch.float32}  # in training
    rounded = trainer.evaluate()
    assert rounded["eval_loss"] == pytest.approx(exact["eval_loss"], rel=2e-2)
    assert rounded["eval_n_examples"] == 6


def test_beams_and_length_of_validation_are_what_the_arguments_say(train, monkeypatch):
    seen = []
    decode = evaluate.decode

    def spy(*args, **options):
        seen.append(options)
        return decode(*args, **options)

    monkeypatch.setattr(evaluate, "decode", spy)
    trainer = train(evaluate_on=3, max_steps=1, generation_num_beams=3, generation_max_length=5)
    assert [(o["num_beams"], o["max_length"]) for o in seen] == [(3, 5)]
    assert trainer.predict(tiny_rag.questions(3)).predictions.shape[1] <= 5


def test_generation_settings_may_come_from_a_folder(train, tmp_path):
    settings = GenerationConfig.from_pretrained(tiny_job() / "assembled", num_beams=3, max_length=6)
    settings.save_pretrained(tmp_path / "settings")
    trainer = train(
        evaluate_on=3,
        generation_config=str(tmp_path / "settings"),
        save_strategy="steps",
        save_steps=4,
    )
    for model in (trainer.rag.model, load_rag(tmp_path / "run/checkpoint-4").model):
        assert (model.generation_config.num_beams, model.generation_config.max_length) == (3, 6)
        assert model.rag.generator.generation_config.num_beams == 3
    assert trainer.predict(tiny_rag.questions(3)).predictions.shape[1] <= 6
    written = (tmp_path / "run/checkpoint-4/training_arguments.json").read_text()
    assert str(tmp_path) not in written


@pytest.mark.parametrize("options", [{"predict_with_generate": False}, {"prediction_loss_only": 1}])
def test_without_generation_the_best_loss_is_kept(train, options):
    trainer = train(evaluate_on=3, save_strategy="steps", save_steps=1, **options)
    losses = logged(trainer, "eval_loss")
    assert trainer.state.best_metric == min(losses)
    assert logged(trainer, "eval_exact_match") == []
    assert len(logged(trainer, "eval_recall@5")) == 4


@pytest.mark.slow
def test_memory_is_reported_where_asked_for(train):
    trainer = train(evaluate_on=3, max_steps=1, skip_memory_metrics=False)
    names = {name for entry in trainer.state.log_history for name in entry}
    assert {"init_mem_cpu_alloc_delta", "train_mem_cpu_peaked_delta"} <= names
    assert "eval_mem_cpu_peaked_delta" in trainer.evaluate()


def test_the_log_level_is_that_of_transformers(train, caplog):
    before = logging.get_verbosity()
    try:
        train(log_level="info", max_steps=1, torch_empty_cache_steps=1)
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity(before)


def test_settings_of_accelerate_change_no_figure_of_one_process(train):
    options = {"gradient_accumulation_steps": 2, "max_steps": 2}
    plain = logged(train(**options), "loss")
    for config in (
        '{"split_batches": true, "even_batches": false, "use_seedable_sampler": true}',
        {"dispatch_batches": True},
        {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    ):
        trainer = train(accelerator_config=config, **options)
        assert logged(trainer, "loss") == pytest.approx(plain, rel=1e-6), config


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_is_the_old_name_of_activation_checkpointing(train):
    plain = logged(train(max_steps=2), "loss")
    for kwargs in ({"use_reentrant": False}, '{"use_reentrant": false, "every_n_layers": 1}'):
        old = train(gradient_checkpointing=True, gradient_checkpointing_kwargs=kwargs, max_steps=2)
        assert old.rag.model.generator.is_activation_checkpointing
        assert logged(old, "loss") == pytest.approx(plain, rel=1e-6)


def test_checkpoints_without_optimiser_hold_the_model_alone(train):
    trainer = train(save_strategy="steps", save_steps=2, save_only_model=True)
    folder = f"{trainer.args.output_dir}/checkpoint-4"
    assert not os.path.exists(f"{folder}/optimizer.pt")
    assert load_rag(folder).retriever is not None


def test_shares_of_all_steps_are_taken_as_steps(train):
    trainer = train(save_strategy="steps", save_steps=0.5, logging_steps=0.5)
    assert checkpoints(trainer) == ["checkpoint-2", "checkpoint-4"]
    assert [e["step"] for e in trainer.state.log_history if "loss" in e] == [2, 4]
