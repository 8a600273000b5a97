"""A decoder-only generator learns from its answers alone; what is frozen stays bit-identical."""

import json

import pytest
import tiny_causal
import tiny_rag
import torch
from test_causal_model import asked, one_by_one
from tiny_causal import finished_adapters, train_causal
from tiny_causal import tiny_causal as make
from tiny_training import logged, same, weights

from rag_finetune.losses.retrieval import lsr_losses
from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.training.causal_arguments import CausalTrainingArguments
from rag_finetune.training.causal_trainer import ADAPTERS, CausalRagTrainer
from rag_finetune.training.rag_trainer import RagTrainer

KINDS = ["llama", pytest.param("gpt2", marks=pytest.mark.slow)]  # GPT-2's layers are no Linear
STEPS = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


@pytest.mark.parametrize("reading", ["ensemble", "joined"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_after_a_step_the_generator_has_moved_and_the_question_encoder_not(tmp_path, kind, reading):
    rag = make(tmp_path, kind, reading, padding=kind == "llama")
    before = {name: weights(getattr(rag.model, name)) for name in ("question_encoder", "generator")}
    train_causal(tmp_path, rag, max_steps=1)
    found = {name: same(before[name], weights(getattr(rag.model, name))) for name in before}
    assert all(found["question_encoder"].values())
    # Positions that no prompt reaches, and words that none holds, have rows that stay.
    assert not any(found["generator"].values()), found["generator"]


def test_the_question_encoder_learns_where_it_is_asked_to_and_alone(tmp_path):
    rag = make(tmp_path)
    before = {name: weights(getattr(rag.model, name)) for name in ("question_encoder", "generator")}
    train_causal(tmp_path, rag, max_steps=1, trainable=["question_encoder"])
    assert all(same(before["generator"], weights(rag.model.generator)).values())
    moved = same(before["question_encoder"], weights(rag.model.question_encoder))
    still = {name for name, is_same in moved.items() if is_same}
    assert len(still) < len(moved) / 2, still


@pytest.mark.parametrize("per_token", [False, True])
def test_the_generator_judges_passages_and_stays(tmp_path, per_token):
    rag = make(tmp_path)
    before = {name: weights(getattr(rag.model, name)) for name in ("question_encoder", "generator")}
    options = {"trainable": ["question_encoder"], "likelihood_weight": 0.0, "lm_temperature": 0.5}
    options["lm_likelihood"] = "per_token" if per_token else "summed"
    rows = tiny_rag.questions(4).to_list()
    answers = [row["answers"][0] for row in rows]
    contexts, labels = asked(rag, questions=[row["question"] for row in rows], answers=answers)
    likelihoods = one_by_one(rag, contexts, labels).sum(-1)
    if per_token:
        likelihoods = likelihoods / (labels != -100).sum(-1, keepdim=True)
    judged = lsr_losses(contexts.doc_scores, likelihoods, lm_temperature=0.5)
    expected = judged.mean().item()
    trainer = train_causal(tmp_path, rag, max_steps=1, retriever_loss="lsr", count=4, **options)
    assert logged(trainer, "loss_lsr")[0] == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-4
    assert all(same(before["generator"], weights(rag.model.generator)).values())
    moved = same(before["question_encoder"], weights(rag.model.question_encoder))
    assert not all(moved.values())


def test_retrieval_is_watched_where_the_question_encoder_learns(tmp_path):
    options = {"max_steps": 10, "logging_steps": 5, "trainable": ["question_encoder"]}
    trainer = train_causal(tmp_path, make(tmp_path), **options)
    distinct = logged(trainer, "distinct_passages")
    assert len(distinct) == 2
    assert all(0 < share <= 1 for share in distinct)
    assert len(logged(trainer, "doc_entropy")) == 2


def test_the_question_encoder_cannot_learn_from_a_joined_prompt(tmp_path):
    rag = make(tmp_path, reading="joined")
    with pytest.raises(ValueError, match=r"joined prompt no gradient .* --reading ensemble"):
        train_causal(tmp_path, rag, trainable=["question_encoder", "generator"])


def test_what_stands_in_a_prompt_is_not_learnt_to_be_said(tmp_path):
    """The gradient is that of the answer's tokens, whatever passage and question say before."""
    rag = make(tmp_path, n_docs=1)
    trainer = train_causal(tmp_path, rag, max_steps=1, learning_rate=1e-9)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    trainer.rag.model.zero_grad()
    trainer.compute_loss(trainer.rag.model, batch).backward()
    head = rag.model.generator.lm_head.weight
    found = head.grad.clone()
    # By hand: the answer's rows of one unpadded sequence, prompt left out of the loss.
    labels = batch["labels"][0][batch["labels"][0] != -100]
    questions = [trainer.train_dataset[0]["question"]]
    output, _ = rag.model._retrieve(batch["input_ids"], batch["attention_mask"], questions, 1)
    prompt = output.input_ids[0]
    ids = torch.cat([prompt, labels]).unsqueeze(0)
    masked = torch.cat([torch.full_like(prompt, -100), labels]).unsqueeze(0)
    rag.model.zero_grad()
    loss = rag.model.generator(input_ids=ids, labels=masked).loss * len(labels)
    loss.backward()
    assert found == pytest.approx(head.grad, abs=1e-5)


@pytest.mark.slow
def test_the_loss_falls_and_the_answers_come(tmp_path):
    rag = make(tmp_path, "gpt2", n_docs=1)
    trainer = train_causal(
        *(tmp_path, rag),
        max_steps=60,
        learning_rate=1e-2,
        per_device_train_batch_size=16,
        eval_questions=tiny_rag.questions(16),
        eval_strategy="steps",
        eval_steps=60,
    )
    losses = logged(trainer, "loss")
    assert losses[-1] < losses[0] / 5
    assert logged(trainer, "eval_exact_match")[-1] >= 0.5


@pytest.mark.slow
def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(tmp_path):
    whole = train_causal(tmp_path / "a", max_steps=2, **STEPS | {"eval_strategy": "no"})
    resume = str(tmp_path / "a/run/checkpoint-1")
    again = train_causal(tmp_path / "b", max_steps=2, resume=resume)
    assert all(same(weights(whole.rag.model), weights(again.rag.model)).values())


@pytest.mark.slow
def test_the_best_checkpoint_is_what_is_kept(tmp_path):
    trainer = train_causal(tmp_path, eval_questions=tiny_rag.questions(5), max_steps=2, **STEPS)
    best = trainer.state.best_model_checkpoint
    assert all(same(weights(load_rag(best).model), weights(trainer.rag.model)).values())


@pytest.mark.slow
def test_figures_and_token_ids_do_not_depend_on_the_batch(tmp_path):
    rag = make(tmp_path)
    found = []
    for size in (1, 5):
        trainer = train_causal(tmp_path, rag, max_steps=1, learning_rate=1e-9)
        trainer.args.per_device_eval_batch_size = size
        predicted = trainer.predict(tiny_rag.questions(5))
        found.append((predicted.predictions.tolist(), predicted.metrics["test_loss"]))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error:fan_in_fan_out")
def test_adapters_alone_learn_are_merged_and_gone_on_from(tmp_path, kind):
    pytest.importorskip("peft")
    rag = make(tmp_path, kind)
    start = weights(rag.model.generator)
    trainer = train_causal(*(tmp_path, rag), lora_rank=2, save_strategy="steps", save_steps=1)
    saved = finished_adapters(trainer, start)
    moved = {name for name, is_same in same(start, saved).items() if not is_same}
    assert moved and all("attn" in name or "mlp" in name for name in moved)
    midway = tmp_path / "run" / "checkpoint-1"
    assert (midway / ADAPTERS).is_file()
    assert not (tmp_path / "run" / ADAPTERS).exists()
    again = train_causal(
        tmp_path / "again",
        make(tmp_path / "again", kind),
        lora_rank=2,
        resume=str(midway),
    )
    ours, theirs = weights(rag.model), weights(again.rag.model)
    assert all(same(ours, theirs).values())


@pytest.mark.slow
def test_adapters_are_not_taken_up_by_a_run_without_any(tmp_path):
    pytest.importorskip("peft")
    train_causal(tmp_path / "a", lora_rank=2, save_strategy="steps", save_steps=1)
    with pytest.raises(ValueError, match=r"was trained with adapters. Go on with the same"):
        train_causal(tmp_path / "b", resume=str(tmp_path / "a/run/checkpoint-1"))


@pytest.mark.slow
def test_adapters_of_another_rank_are_not_taken_up(tmp_path):
    pytest.importorskip("peft")
    train_causal(tmp_path / "a", lora_rank=2, save_strategy="steps", save_steps=1)
    midway = str(tmp_path / "a/run/checkpoint-1")
    with pytest.raises(ValueError, match=r"trained with --lora_rank 2, found 4\. Go on with the"):
        train_causal(tmp_path / "b", lora_rank=4, resume=midway)


@pytest.mark.slow
def test_adapters_of_weights_in_four_bits_are_not_taken_up_beside_whole_ones(tmp_path):
    pytest.importorskip("peft")
    train_causal(tmp_path / "a", lora_rank=2, save_strategy="steps", save_steps=1)
    midway = tmp_path / "a/run/checkpoint-1"
    said = midway / "training_arguments.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | {"load_in_4bit": True}))
    with pytest.raises(ValueError, match=r"trained on weights in 4 bits\. Go on with the same"):
        train_causal(tmp_path / "b", lora_rank=2, resume=str(midway))


def test_accumulated_steps_are_those_of_one_batch(tmp_path):
    found = []
    for size, steps in ((8, 1), (2, 4)):
        rag = make(tmp_path / str(size))
        train_causal(
            *(tmp_path / str(size), rag),
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim="sgd",
        )
        found.append(torch.nn.utils.parameters_to_vector(rag.model.generator.parameters()))
    assert found[0].detach() == pytest.approx(found[1].detach(), abs=1e-6)


def test_an_answer_that_is_too_long_is_refused_before_training(tmp_path):
    rag = make(tmp_path)
    with pytest.raises(ValueError, match=r"answers are longer than max_target_length 2"):
        train_causal(tmp_path, rag, max_target_length=2)


def test_lengths_beyond_the_positions_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"more than the 128 positions"):
        train_causal(tmp_path, max_combined_length=125)


def test_the_trainers_of_the_two_kinds_are_not_mixed_up(tmp_path):
    args = CausalTrainingArguments(output_dir=str(tmp_path / "run"), eval_strategy="no")
    with pytest.raises(ValueError, match=r"found RagSequenceForGeneration.*rag-finetune train\."):
        CausalRagTrainer(tiny_rag.tiny_rag(tmp_path / "bart"), args, tiny_rag.questions(4))
    with pytest.raises(ValueError, match=r"decoder-only generator.*train-causal"):
        RagTrainer(make(tmp_path / "llama"), args, tiny_rag.questions(4))


def test_the_padding_of_the_tiny_tokenizer_is_its_own_or_its_end():
    assert tiny_causal.tokenizer().pad_token_id == 0
    assert tiny_causal.tokenizer(padding=False).pad_token_id is None
