"""What is done to a model before training, and to its rows after evaluating."""

import numpy as np
import pytest
import tiny_encoders
import tiny_rag
import torch
from tiny_job import tiny_job
from tiny_training import logged, train_tiny
from torch import nn

from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.evaluation.evaluate import Evaluated
from rag_finetune.index.build import build_index
from rag_finetune.index.update import load_own_encoder
from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.rag.generation import question_encoder_of
from rag_finetune.rag.lengths import question_limit
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.setup import (
    checkpointable,
    configure_model,
    gather_rows,
    padded_array,
    split_groups,
    tied_names,
)


def configured(with_index=True, **options):
    rag = load_rag(tiny_job() / "assembled", with_index=with_index)
    args = RagTrainingArguments(output_dir="run", **options)
    configure_model(rag, args)
    return rag, args


def trainable_parts(rag):
    return {
        name
        for name in ("question_encoder", "generator")
        for parameter in getattr(rag.model.rag, name).parameters()
        if parameter.requires_grad
    }


@pytest.mark.parametrize("trainable", [["generator"], ["question_encoder"]], ids=str)
def test_what_does_not_train_is_frozen_and_what_trains_is_not(trainable):
    rag, _ = configured(trainable=trainable)
    assert trainable_parts(rag) == set(trainable)
    args = RagTrainingArguments(output_dir="run")
    configure_model(rag, args)  # a second training may train the rest
    assert trainable_parts(rag) == {"question_encoder", "generator"}


def test_n_docs_and_lengths_are_those_of_the_arguments():
    rag, args = configured(n_docs=3, max_combined_length=50)
    assert rag.model.config.n_docs == rag.retriever.n_docs == args.n_docs == 3
    assert rag.model.config.max_combined_length == 50
    assert rag.retriever.config.max_combined_length == 50
    assert rag.model.config.do_marginalize is False


def test_what_the_arguments_leave_open_stays_as_the_model_has_it():
    rag, _ = configured()
    assert (rag.model.config.n_docs, rag.model.config.max_combined_length) == (5, 40)


@pytest.mark.parametrize("flag", ["doubt_weight", "passage_loss_weight"])
def test_weights_between_passages_do_nothing_where_one_is_read_and_that_is_said(flag):
    with pytest.warns(UserWarning, match=f"--{flag} does nothing where one passage is read"):
        configured(n_docs=1, **{flag: 0.5})


def test_more_passages_than_there_are_become_all_with_a_warning():
    with pytest.warns(UserWarning, match="using all 20"):
        rag, args = configured(n_docs=99)
    assert rag.model.config.n_docs == rag.retriever.n_docs == args.n_docs == 20


@pytest.mark.parametrize(
    "options", [{"max_combined_length": 129}, {"max_target_length": 129}], ids=str
)
def test_lengths_beyond_the_generators_positions_are_refused(options):
    with pytest.raises(ValueError, match="must be at most 128, the generator's positions"):
        configured(**options)
    configured(**{name: 128 for name in options})


def test_answers_may_be_as_long_as_those_trained_on():
    rag, _ = configured(max_target_length=33)
    settings = rag.model.rag.generator.generation_config
    assert settings.max_length == 33
    configure_model(rag, RagTrainingArguments(output_dir="run", max_target_length=40))
    assert settings.max_length == 40
    configure_model(rag, RagTrainingArguments(output_dir="run", max_target_length=20))
    assert settings.max_length == 40  # longer ones are no harm
    settings.max_length, settings.max_new_tokens = None, 7
    configure_model(rag, RagTrainingArguments(output_dir="run", max_target_length=20))
    assert (settings.max_length, settings.max_new_tokens) == (None, 7)


def test_activations_are_recomputed_in_what_trains_alone():
    rag = load_rag(tiny_job() / "assembled", with_index=False)
    parts = {name: getattr(rag.model.rag, name) for name in ("question_encoder", "generator")}
    bert = parts["question_encoder"].question_encoder.bert_model
    assert checkpointable(parts, ["generator"]) == [parts["generator"]]
    assert checkpointable(parts, ["question_encoder", "generator"]) == [bert, parts["generator"]]
    parts["context_encoder"] = load_own_encoder(tiny_job() / "index").model
    within = parts["context_encoder"].ctx_encoder.bert_model
    assert checkpointable(parts, ["context_encoder"]) == [within]
    for module in checkpointable(parts, ["question_encoder", "context_encoder", "generator"]):
        module.activation_checkpointing_enable()


def test_groups_are_split_and_nothing_is_lost_or_doubled():
    a, b, c, d = (nn.Parameter(torch.zeros(1)) for _ in range(4))
    groups = [
        {"params": [a, b], "lr": 1e-3, "weight_decay": 0.1},
        {"params": [c], "lr": 1e-3, "weight_decay": 0.0},
        {"params": [d], "lr": 1e-3, "weight_decay": 0.0},
    ]
    split = split_groups(groups, {id(a), id(c)}, 1e-5)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in split for p in g["params"]}
    assert rates == {
        id(a): (1e-5, 0.1),
        id(b): (1e-3, 0.1),
        id(c): (1e-5, 0.0),
        id(d): (1e-3, 0.0),
    }
    assert sum(len(group["params"]) for group in split) == 4
    assert all(group["params"] for group in split)
    assert [len(group["params"]) for group in groups] == [2, 1, 1]


def test_rows_come_once_each_and_in_order():
    rows = {n: Evaluated({"id": str(n)}, [], []) for n in (2, 0, 1, 3)}
    assert gather_rows(rows, 3) == [rows[0], rows[1], rows[2]]


def test_rows_of_all_processes_are_joined_by_their_number(monkeypatch):
    rows = [Evaluated({"id": str(n)}, [], []) for n in range(3)]
    again = Evaluated({"id": "0"}, [], [])
    others = [(1, rows[1]), (0, again)]  # row 0 was repeated to make the processes even
    monkeypatch.setattr("rag_finetune.training.setup.gather_object", lambda ours: [*ours, *others])
    assert gather_rows({0: rows[0], 2: rows[2]}, 3) == [again, rows[1], rows[2]]


def test_a_row_that_is_missing_is_an_error():
    with pytest.raises(KeyError):
        gather_rows({0: Evaluated({}, [], [])}, 2)


def test_token_ids_are_padded_with_what_the_trainer_ignores():
    found = padded_array([[1, 2, 3], [], [4, 0, 0]], 0)
    assert found.dtype == np.int64
    assert found.tolist() == [[1, 2, 3], [-100] * 3, [4, -100, -100]]
    assert padded_array([], 0).size == 0
    assert padded_array([[], []], 0).shape == (2, 0)


def test_tied_weights_are_found():
    rag = load_rag(tiny_job() / "assembled", with_index=False)
    tied = tied_names(rag.model)
    assert "rag.generator.lm_head.weight" in tied
    assert "rag.generator.model.shared.weight" in tied
    assert not any(name.startswith("rag.question_encoder") for name in tied)


def test_a_pooled_encoder_trains_and_recomputes_its_activations(tmp_path):
    encoder = tiny_encoders.save_bare(tmp_path / "encoder")
    parts = tiny_rag.save_parts(tmp_path / "parts")
    context = load_context_encoder(encoder, 64, pooling="mean", normalize=True)
    index = build_index(tiny_rag.passages(), context, tmp_path / "index")
    folder = assemble_rag(
        encoder,
        parts["generator"],
        tmp_path / "assembled",
        index=index,
        max_combined_length=40,
        pooling="mean",
        normalize=True,
        question_prefix="who ? ",
    )
    figures = []
    for name, recompute in (("plain", False), ("recomputed", True)):
        rag = load_rag(folder)
        pooled = rag.model.rag.question_encoder
        for module in rag.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        rag.model.rag.generator.config.dropout = 0.0
        assert checkpointable({"question_encoder": pooled}, ["question_encoder"]) == [pooled.inner]
        trainer = train_tiny(tmp_path / name, rag=rag, activation_checkpointing=recompute)
        assert pooled.inner.is_activation_checkpointing is recompute
        figures.append((logged(trainer, "loss"), logged(trainer, "grad_norm_question_encoder")))
    assert figures[0][1][0] > 0
    assert figures[1][0] == pytest.approx(figures[0][0], rel=1e-5)
    assert figures[1][1] == pytest.approx(figures[0][1], rel=1e-4)


def test_a_question_is_cut_to_what_tokenizer_and_network_can_take(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    assert question_limit(rag, 500) == 64
    rag.tokenizer.question_encoder.model_max_length = 7
    assert question_limit(rag, 500) == question_encoder_of(rag, 500).max_length == 7
    assert question_encoder_of(rag, 5).max_length == 5
