"""RetrieverTrainer learns, has the right gradients, and goes on to the same bits."""

import json
import math

import pytest
import tiny_rag
import tiny_retriever
import torch

from rag_finetune.encoders.load import load_context_encoder, load_question_encoder
from rag_finetune.losses.contrastive import contrastive_losses


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.biencoder.named_parameters()}


def assert_close(found, expected):
    norm = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
    assert found.keys() == expected.keys() and norm > 0
    for name in expected:
        assert float((found[name] - expected[name]).norm()) <= 1e-5 * norm, name


@pytest.mark.parametrize(
    "options",
    [
        {"tied": True},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"n_negatives": 2, "symmetric": True}, marks=pytest.mark.slow),
    ],
)
def test_training_finds_what_it_did_not_find_and_every_parameter_moves(tmp_path, options):
    trainer = tiny_retriever.make_trainer(tmp_path, max_steps=60, **options)
    before, start = trainer.evaluate(), weights(trainer)
    trainer.train()
    after = trainer.evaluate()
    assert before["eval_recall@1"] < 0.5 < 0.8 < after["eval_recall@1"]
    unmoved = [name for name, p in weights(trainer).items() if torch.equal(p, start[name])]
    assert all("position" in n or "token_type" in n or "key.bias" in n for n in unmoved), unmoved
    assert set(trainer.biencoder.parts) == (
        {"question_encoder"} if options.get("tied") else {"question_encoder", "context_encoder"}
    )


def test_the_loss_is_that_of_a_loop_over_questions(tmp_path):
    trainer = tiny_retriever.make_trainer(tmp_path, n_negatives=2, pair=tiny_retriever.encoders())
    items = [trainer.examples[row] for row in (0, 5, 9, 5)]
    batch = trainer.data_collator(items)
    found = trainer.compute_loss(trainer.biencoder.eval(), batch).detach()
    questions, contexts = trainer.encoders.values()
    table, losses = trainer.examples.passages, []
    columns = batch["passage_rows"].tolist()
    vectors = torch.tensor(
        contexts.encode([table.texts[c] for c in columns], [table.titles[c] for c in columns])
    )
    for item in items:
        question = torch.tensor(questions.encode([trainer.examples.questions[item["row"]]]))
        scores = question @ vectors.T / 5.0
        excluded = trainer.examples.excluded([item["row"]], columns)
        target = torch.tensor([columns.index(item["positive"])])
        losses.append(float(contrastive_losses(scores, target, excluded)))
    assert float(found) == pytest.approx(sum(losses) / 4, rel=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_gradient_cache_gives_the_plain_gradient_with_the_same_dropout(tmp_path, dropout):
    def cut(chunk, cached):
        trainer = tiny_retriever.make_trainer(
            tmp_path, n_negatives=1, grad_cache_chunk=chunk, dropout=dropout, symmetric=True
        )
        trainer.biencoder.recompute = cached
        return tiny_retriever.gradients(trainer, list(range(9)))

    # The same parts, so that dropout falls alike; kept in memory, or run again.
    assert_close(cut(3, cached=True), cut(3, cached=False))
    if not dropout:
        assert_close(cut(3, cached=True), cut(100, cached=False))


def test_a_part_is_run_again_for_its_gradient_and_no_larger_than_asked_for(tmp_path):
    trainer = tiny_retriever.make_trainer(tmp_path, grad_cache_chunk=3)
    sizes = []
    trainer.biencoder.question_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    tiny_retriever.gradients(trainer, list(range(8)))
    assert sorted(sizes) == [2, 2, 3, 3, 3, 3]


def test_going_on_costs_no_patience_and_searches_for_nothing_known(tmp_path):
    options = {
        "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
        "metric_for_best_model": "mrr@10", "early_stopping_patience": 1,
    }  # fmt: skip
    tiny_retriever.make_trainer(tmp_path, max_steps=1, **options).train()
    trainer = tiny_retriever.make_trainer(tmp_path, max_steps=3, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-1"))
    steps = [e["step"] for e in trainer.state.log_history if "eval_mrr@10" in e]
    assert steps[:3] == [0, 1, 2]


def test_without_evaluations_there_is_none_at_the_start(tmp_path):
    trainer = tiny_retriever.make_trainer(tmp_path, max_steps=1)
    trainer.train()
    assert not any("eval_mrr@10" in entry for entry in trainer.state.log_history)


def test_accumulation_weighs_every_question_alike(tmp_path):
    losses = []
    for size, steps in ((10, 1), (5, 2)):
        trainer = tiny_retriever.make_trainer(
            tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps,
            max_steps=1, count=10, learning_rate=1e-9,
        )  # fmt: skip
        trainer.train()
        losses.append(next(e["loss"] for e in trainer.state.log_history if "loss" in e))
    assert losses[1] < losses[0]  # half as many negatives
    assert losses[1] > losses[0] / 2


@pytest.mark.parametrize(
    "stop", [pytest.param(3, marks=pytest.mark.slow), 5]
)  # at the end of an epoch of three steps, and within one
def test_a_resumed_run_has_the_same_bits(tmp_path, stop):
    options = {
        "max_steps": 7, "n_negatives": 1, "dropout": 0.3, "save_strategy": "steps", "save_steps": 1,
        "save_total_limit": None, "logging_steps": 1,
    }  # fmt: skip
    whole = tiny_retriever.make_trainer(tmp_path / "whole", **options)
    whole.train()
    resumed = tiny_retriever.make_trainer(tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"whole/run/checkpoint-{stop}"))
    expected = weights(whole)
    assert all(torch.equal(p, expected[name]) for name, p in weights(resumed).items())
    of = [
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-2:]
        for trainer in (whole, resumed)
    ]
    assert of[0] == of[1]


def test_the_best_checkpoint_is_kept_and_no_pickle_of_paths(tmp_path):
    trainer = tiny_retriever.make_trainer(
        tmp_path, max_steps=4, eval_strategy="steps", eval_steps=1, save_strategy="steps",
        save_steps=1, save_total_limit=None,
    )  # fmt: skip
    result = trainer.train()
    found = [e["eval_mrr@10"] for e in trainer.state.log_history if "eval_mrr@10" in e]
    assert trainer.state.best_metric == max(found)
    assert trainer.evaluate()["eval_mrr@10"] == pytest.approx(max(found))
    trainer.finish(result.metrics)
    assert not list((tmp_path / "run").rglob("training_args.bin"))
    written = json.loads((tmp_path / "run" / "train_results.json").read_text())
    assert written["best_metric"] == max(found)


@pytest.mark.parametrize("tied", [False, True])
def test_both_folders_load_and_give_the_vectors_of_the_trainer(tmp_path, tied):
    trainer = tiny_retriever.make_trainer(tmp_path, tied=tied)
    trainer.train()
    trainer.finish({})
    loaded = (
        load_question_encoder(str(tmp_path / "run" / "question_encoder"), 64),
        load_context_encoder(str(tmp_path / "run" / "context_encoder"), 64),
    )
    for ours, theirs in zip(trainer.encoders.values(), loaded, strict=True):
        texts = tiny_rag.passages()["text"][:3]
        assert (ours.encode(texts) == theirs.encode(texts)).all()


def test_distillation_follows_the_teacher(tmp_path):
    data = tiny_retriever.examples(20, n_negatives=2)
    trainer = tiny_retriever.make_trainer(
        tmp_path, max_steps=30, examples=data, distillation_weight=1.0
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_the_weight_mixes_both_losses(tmp_path):
    found = []
    for weight in (0.0, 0.25, 1.0):
        trainer = tiny_retriever.make_trainer(tmp_path, n_negatives=2, distillation_weight=weight)
        batch = trainer.data_collator([trainer.examples[row] for row in range(8)])
        found.append(float(trainer.compute_loss(trainer.biencoder.eval(), batch).detach()))
    assert found[1] == pytest.approx(0.75 * found[0] + 0.25 * found[2], rel=1e-5)


def test_a_part_that_gets_no_gradient_stops_the_run(tmp_path):
    trainer = tiny_retriever.make_trainer(tmp_path)
    network = trainer.biencoder.context_encoder
    network.forward = torch.no_grad()(network.forward)
    with pytest.raises(ValueError, match="No gradient reaches context_encoder"):
        trainer.train()


def test_bfloat16_trains_with_scores_in_float32(tmp_path):
    trainer = tiny_retriever.make_trainer(tmp_path, bf16=True, max_steps=3)
    trainer.train()
    assert all(math.isfinite(e["loss"]) for e in trainer.state.log_history if "loss" in e)


def test_evaluation_without_questions_is_refused(tmp_path):
    trainer = tiny_retriever.make_trainer(tmp_path, eval_questions=None, eval_strategy="epoch")
    assert trainer.args.eval_strategy == "no"
    with pytest.raises(ValueError, match="needs eval_questions"):
        trainer.evaluate()
