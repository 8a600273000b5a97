"""Generator training: the generator moves, the rest is bit-identical, the loss is its own."""

import pytest
import tiny_rag
import torch
from tiny_training import SHORT, logged, same, weights
from torch.nn.functional import cross_entropy

from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.training.generator_arguments import GeneratorTrainingArguments
from rag_finetune.training.generator_trainer import GeneratorTrainer
from rag_finetune.training.options import PARTS

DEFAULTS = SHORT | {"max_steps": 1, "max_target_length": 8}


def make(folder, rag, *, questions=None, eval_questions=None, **options):
    args = GeneratorTrainingArguments(output_dir=str(folder / "run"), **(DEFAULTS | options))
    return GeneratorTrainer(rag, args, questions or tiny_rag.questions(8), eval_questions)


@pytest.mark.parametrize("model_type", ["rag_sequence", "rag_token"])
@pytest.mark.parametrize("context", ["gold", "retrieved", "mixed"])
def test_one_step_moves_the_generator_and_nothing_else(tmp_path, context, model_type):
    rag = tiny_rag.tiny_rag(tmp_path, model_type=model_type)
    before = {name: weights(getattr(rag.model.rag, name)) for name in PARTS}
    trainer = make(tmp_path, rag, context=context, weight_decay=0.1)
    trainer.train()
    assert all(
        same(before["question_encoder"], weights(trainer.parts["question_encoder"])).values()
    )
    moved = same(before["generator"], weights(trainer.parts["generator"]))
    still = {name for name, is_equal in moved.items() if is_equal and name.endswith("weight")}
    assert all("final_layer_norm" in name for name in still)
    assert logged(trainer, "grad_norm_generator")[0] > 0


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_the_loss_is_the_generators_cross_entropy_on_the_gold_passage(tmp_path, kind):
    rag = tiny_rag.tiny_rag(tmp_path, kind=kind, dropout=0.0)
    trainer = make(tmp_path, rag)
    batch = next(iter(trainer.get_train_dataloader()))
    rag.model.train()
    with torch.no_grad():
        loss = trainer.compute_loss(rag.model, batch)
    total = 0.0
    for row, labels in zip(batch["rows"].tolist(), batch["labels"], strict=True):
        fact = tiny_rag.facts()[row]
        passages = [{"title": [fact["title"]], "text": [fact["text"]]}]
        ids, mask = rag.retriever.postprocess_docs(passages, [fact["question"]], None, 1, "pt")
        # T5 starts with its padding.
        length = 1 + int((labels[1:] != rag.model.config.generator.pad_token_id).sum())
        with torch.no_grad():
            logits = rag.model.generator(
                input_ids=ids, attention_mask=mask, decoder_input_ids=labels[None, : length - 1]
            ).logits
        total += float(cross_entropy(logits[0], labels[1:length], reduction="sum"))
    assert float(loss) == pytest.approx(total / len(batch["rows"]), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "gold", "others"),
    [
        ({"context": "gold"}, True, False),
        ({"context": "retrieved"}, True, True),
        ({"context": "mixed", "gold_probability": 1.0}, True, False),
        ({"context": "mixed", "gold_probability": 0.0}, False, True),
        ({"context": "mixed", "gold_probability": 0.5}, True, True),
    ],
)
def test_each_way_reads_what_it_says(tmp_path, options, gold, others):
    rag = tiny_rag.tiny_rag(tmp_path)
    trainer = make(tmp_path, rag, n_docs=20, **options)  # so that the gold passage is found
    items = trainer.train_dataset
    chosen = trainer._chosen_passages(trainer.data_collator)
    drawn = set()
    for epoch in range(40):
        items.set_epoch(epoch)
        drawn |= {chosen.choose(item) == item for item in range(8)}  # fact n answers question n
    assert drawn == {kind for kind, there in ((True, gold), (False, others)) if there}


def test_it_learns_to_read_and_leaves_a_checkpoint_that_answers(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path, dropout=0.0)
    options = {"max_steps": 30, "per_device_train_batch_size": 20, "learning_rate": 1e-2}
    trainer = make(tmp_path, rag, questions=tiny_rag.questions(20), **options)
    result = trainer.train()
    losses = logged(trainer, "loss")
    assert losses[-1] < losses[0] / 2
    trainer.finish(result.metrics)
    loaded = load_rag(tmp_path / "run")
    assert all(same(weights(loaded.model), weights(rag.model)).values())


def test_questions_without_gold_are_left_out_but_where_passages_are_searched(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    questions = tiny_rag.questions(8).to_list()
    questions[2]["positive_ids"] = []
    questions = tiny_rag.questions(8).from_list(questions)
    with pytest.warns(UserWarning, match="1 of 8 training questions"):
        trainer = make(tmp_path, rag, questions=questions)
    assert len(trainer.train_dataset) == len(trainer._golds) == 7
    assert [golds for golds in trainer._golds] == [[0], [1], [3], [4], [5], [6], [7]]
    assert len(make(tmp_path, rag, questions=questions, context="retrieved").train_dataset) == 8


def test_it_is_evaluated_on_what_is_retrieved(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no"}
    trainer = make(tmp_path, rag, eval_questions=tiny_rag.questions(6), **options)
    trainer.train()
    assert 0.0 <= logged(trainer, "eval_recall@5")[0] < 1.0


def test_workers_of_the_loader_give_the_same_losses(tmp_path):
    losses = []
    for workers in (0, 1):
        folder = tmp_path / str(workers)
        rag = tiny_rag.tiny_rag(folder, dropout=0.0)
        trainer = make(folder, rag, context="mixed", max_steps=3, dataloader_num_workers=workers)
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == losses[1]


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    options = {"context": "mixed", "max_steps": 4, "save_strategy": "steps", "save_steps": 3}
    whole = tiny_rag.tiny_rag(tmp_path / "a")
    make(tmp_path / "a", whole, **options).train()
    parts = tiny_rag.tiny_rag(tmp_path / "b")
    trainer = make(tmp_path / "b", parts, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "a" / "run" / "checkpoint-3"))
    assert all(same(weights(whole.model), weights(parts.model)).values())
