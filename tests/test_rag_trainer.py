"""Training tiny models: what should move moves, what should stay is bit-identical."""

import os
import signal
import warnings

import pytest
import tiny_rag
import torch
from tiny_training import logged, same, train_tiny, weights
from transformers import TrainerCallback

from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.rag.scoring import score_passages
from rag_finetune.training import rag_retrieval, rag_trainer
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.rag_trainer import RagTrainer


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
    monkeypatch.setattr(
        rag_retrieval, "score_passages", lambda *args: score_passages(*args).detach()
    )
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


def test_bf16_gives_a_finite_loss_close_to_float32_and_scores_in_float32(tmp_path, monkeypatch):
    seen = []

    def spy(*args):
        seen.append(score_passages(*args))
        return seen[-1]

    monkeypatch.setattr(rag_retrieval, "score_passages", spy)
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


@pytest.mark.parametrize(
    "weight", ["label_smoothing_factor", "passage_loss_weight", "doubt_weight"]
)
def test_what_is_added_to_the_likelihood_is_part_of_the_loss(tmp_path, weight):
    def train(name, **options):
        rag = tiny_rag.tiny_rag(tmp_path / name, dropout=0.0)
        tiny_rag.spread(rag.model.rag.generator, 0.7)  # else it reads all passages alike
        return train_tiny(tmp_path / name, rag=rag, max_steps=1, **options)

    plain, added = train("a"), train("b", **{weight: 0.2})
    assert logged(added, "loss")[0] != pytest.approx(logged(plain, "loss")[0], rel=1e-3)


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


@pytest.mark.parametrize("trainable", [["question_encoder"], ["question_encoder", "generator"]])
def test_a_generator_that_is_to_learn_from_made_questions_is_warned_of(tmp_path, trainable):
    made = "the house is red and the garden is green"
    rows = tiny_rag.questions(3).map(
        lambda row, number: {"question": "house is red green", "answers": [made]} if number else {},
        with_indices=True,
    )
    args = RagTrainingArguments(
        output_dir=str(tmp_path / "run"), eval_strategy="no", trainable=trainable
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        RagTrainer(tiny_rag.tiny_rag(tmp_path), args, rows)
    said = [str(warning.message) for warning in caught if "make-questions" in str(warning.message)]
    assert len(said) == ("generator" in trainable)
    if said:
        assert "2 of 3 questions to train on" in said[0] and "house is red green" in said[0]


def test_a_question_that_leaves_no_room_is_refused_before_training(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)  # max_combined_length 40
    rows = tiny_rag.questions(2).map(lambda row: {"question": "the house " * 30})
    args = RagTrainingArguments(output_dir=str(tmp_path / "run"), eval_strategy="no")
    with pytest.raises(ValueError, match="does not fit into max_combined_length 40"):
        RagTrainer(rag, args, rows)
