import json
import math

import pytest
import reranker_worker
import torch
from test_rag_trainer import KillAtStep
from test_reranker_data import examples
from tiny_reranker import save_reranker
from tiny_training import same, weights
from worlds import run_two

from rag_finetune.retrieval.rerank import load_reranker
from rag_finetune.training.reranker_arguments import RerankerTrainingArguments
from rag_finetune.training.reranker_trainer import RerankerTrainer, ranking_figures

COUNTS = [4] * 12


def arguments(folder, **more):
    options = {"eval_strategy": "no", "save_strategy": "no", "use_cpu": True, "report_to": []}
    options |= {"max_steps": 1, "disable_tqdm": True, "warmup_steps": 0, "n_negatives": 3}
    return RerankerTrainingArguments(output_dir=str(folder), **(options | more))


def trainer_of(folder, n_logits=1, held=None, callbacks=None, **more):
    reranker = load_reranker(save_reranker(folder / "start", n_logits, std=0.1))
    args = arguments(folder / "run", **more)
    data = examples(COUNTS, args.n_negatives)
    return RerankerTrainer(reranker, args, data, held, callbacks=callbacks)


def test_the_loss_is_the_cross_entropy_of_the_gold_passage_in_its_list(tmp_path):
    trainer = trainer_of(tmp_path)
    data = examples([3, 1], n_negatives=3)
    items = [data[0], data[1]]
    trainer.reranker.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(items))
        expected = 0.0
        for item in items:
            texts = [
                (data.questions[item["row"]], f"{data.passages.titles[p]} {data.passages.texts[p]}")
                for p in (item["positive"], *item["negatives"])
            ]
            scores = trainer.reranker.score(texts).tolist()
            expected -= scores[0] - math.log(sum(map(math.exp, scores)))
    assert float(loss) == pytest.approx(expected / 2, abs=1e-5)


@pytest.mark.parametrize("n_logits", [1, 2])
def test_a_trained_reranker_ranks_gold_first_and_every_parameter_moves(tmp_path, n_logits):
    data = examples(COUNTS, 3)
    trainer = trainer_of(
        tmp_path, n_logits, data, max_steps=200, learning_rate=1e-2, per_device_train_batch_size=12
    )
    model = trainer.reranker.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    untrained = ranking_figures(trainer.reranker, data)
    result = trainer.train()
    trainer.finish(result.metrics)
    assert untrained["recall@1"] < 0.7
    same = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    # softmax takes no notice of what is added to all keys, or to the logits of a whole list
    unmoved = {name for name in same if not name.endswith(("key.bias", "classifier.bias"))}
    assert not unmoved
    loaded = load_reranker(str(tmp_path / "run"))
    trained = ranking_figures(loaded, data)
    assert trained["recall@1"] >= 0.9 and trained["loss"] < untrained["loss"] / 2
    evaluated = trainer.evaluate()
    assert {name: evaluated[f"eval_{name}"] for name in trained} == pytest.approx(trained)


def test_what_is_left_is_an_ordinary_folder(tmp_path):
    trainer = trainer_of(tmp_path, save_strategy="steps", save_steps=1)
    trainer.finish(trainer.train().metrics)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "train_results.json"} <= names
    assert not list((tmp_path / "run").rglob("training_args.bin"))
    assert str(tmp_path) not in (tmp_path / "run/config.json").read_text()
    assert (tmp_path / "run/checkpoint-1/model.safetensors").is_file()


@pytest.mark.parametrize("step", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_ended_by_sigterm_goes_on_to_the_same_bits(tmp_path, step):
    """Epochs are of three steps: it ends within one (after step 4), or with one (after step 6)."""
    options = {"max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    whole = trainer_of(tmp_path / "whole", **options)
    whole.train()
    ended = trainer_of(tmp_path / "ended", **options, callbacks=[KillAtStep(step)])
    start = weights(ended.model)
    ended.train()
    assert ended.sigterm.stopped and ended.state.global_step == step + 1
    assert not all(same(weights(ended.model), weights(whole.model)).values())
    resumed = trainer_of(tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"ended/run/checkpoint-{step + 1}"))
    assert resumed.state.global_step == 8
    assert all(same(weights(resumed.model), weights(whole.model)).values())
    assert not any(
        equal for name, equal in same(weights(whole.model), start).items() if "query" in name
    )


@pytest.mark.slow
def test_two_processes_have_the_gradient_and_the_weights_of_one_with_the_whole_batch(tmp_path):
    save_reranker(tmp_path / "start", std=0.1)
    run_two(tmp_path, reranker_worker.run, tmp_path)
    reranker_worker.run(tmp_path)
    one, two = (json.loads((tmp_path / f"figures{n}.json").read_text()) for n in (1, 2))
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert len(one["logged"]["loss"]) == 4
    for name in ("loss", "grad_norm"):
        assert two["logged"][name] == pytest.approx(one["logged"][name], rel=1e-4), name
    assert two["figures"] == pytest.approx(one["figures"], rel=1e-4)
    for kind in ("gradients", "weights"):
        whole = torch.load(tmp_path / f"{kind}0of1.pt")
        norm = sum(float(tensor.square().sum()) for tensor in whole.values()) ** 0.5
        assert norm > 0
        for process in (0, 1):
            found = torch.load(tmp_path / f"{kind}{process}of2.pt")
            assert found.keys() == whole.keys()
            for name, tensor in whole.items():
                assert float((found[name] - tensor).norm()) <= 1e-5 * norm, (kind, name)


def test_accumulation_changes_nothing(tmp_path):
    weights = []
    for number, (batch, steps) in enumerate(((12, 1), (4, 3))):
        trainer = trainer_of(
            tmp_path / str(number),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            learning_rate=1e-2,
            train_sampling_strategy="sequential",
            optim="sgd",
        )
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer.train()
        weights.append(dict(trainer.model.named_parameters()))
    for name, parameter in weights[0].items():
        assert torch.allclose(parameter, weights[1][name], atol=1e-6), name


def test_figures_worked_by_hand(tmp_path):
    data = examples([2, 3], n_negatives=1)
    reranker = load_reranker(save_reranker(tmp_path, std=0.0))  # all scores are equal
    figures = ranking_figures(reranker, data)
    assert figures["loss"] == pytest.approx((math.log(3) + math.log(4)) / 2)
    # of equal scores gold passages count as the last
    assert figures["recall@1"] == 0.0
    assert figures["mrr@10"] == pytest.approx((1 / 3 + 1 / 4) / 2)


def test_the_best_checkpoint_is_kept_where_one_validates(tmp_path):
    trainer = trainer_of(
        tmp_path,
        held=examples(COUNTS, 3),
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
        max_steps=4,
        learning_rate=1e-2,
    )
    trainer.finish(trainer.train().metrics)
    results = json.loads((tmp_path / "run/train_results.json").read_text())
    figures = ranking_figures(load_reranker(str(tmp_path / "run")), examples(COUNTS, 3))
    assert figures["mrr@10"] == pytest.approx(results["best_metric"])
