"""Evaluation within training: each question once, whatever the batch, and every figure."""

import warnings

import pytest
import tiny_rag
import torch
from tiny_training import logged, train_tiny

from rag_finetune.training import rag_trainer
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.rag_trainer import RagTrainer


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


@pytest.mark.parametrize("model_type", ["rag_sequence", "rag_token"])
def test_a_context_is_encoded_once_for_loss_and_answers(tmp_path, model_type):
    rag = tiny_rag.tiny_rag(tmp_path, model_type=model_type)
    args = RagTrainingArguments(output_dir=str(tmp_path / "run"), disable_tqdm=True)
    trainer = RagTrainer(rag, args, None, tiny_rag.questions(5))
    encoded = []
    rag.model.rag.generator.get_encoder().register_forward_pre_hook(
        lambda module, args, kwargs: encoded.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    trainer.evaluate()
    assert sum(encoded) == 5 * rag.retriever.n_docs


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
    assert any("the retriever may have collapsed" in str(w.message) for w in caught)


def test_variety_that_falls_from_evaluation_to_evaluation_is_warned_about(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    args = RagTrainingArguments(output_dir=str(tmp_path / "run"), disable_tqdm=True)
    trainer = RagTrainer(rag, args, None, tiny_rag.questions(20))
    trainer.is_in_train = True
    trainer._first_health["eval"] = {"distinct_passages": 0.8}
    with torch.no_grad():  # one passage list for all: 5 of 20
        for parameter in rag.model.question_encoder.parameters():
            parameter.zero_()
    with pytest.warns(UserWarning, match=r"retrieve 25\.0% of the passages.*and 80\.0% earlier"):
        trainer.evaluate()
    trainer.is_in_train = False  # other questions, perhaps: they are not compared
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.evaluate()
    assert not any("earlier in this run" in str(w.message) for w in caught)
