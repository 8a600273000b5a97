"""Adapters train alone, and are part of the weights that are saved."""

import sys

import pytest
import tiny_retriever

from rag_finetune.encoders.load import load_question_encoder
from rag_finetune.rag.adapters import merged
from rag_finetune.training.lora import add_adapters


def test_a_network_without_adapters_is_left_alone():
    question, _ = tiny_retriever.encoders()
    assert merged(question.model) is question.model


def test_adapters_alone_move_and_the_saved_folder_has_their_vectors(tmp_path):
    pytest.importorskip("peft")
    trainer = tiny_retriever.make_trainer(
        tmp_path, lora_rank=4, max_steps=40, save_strategy="steps", save_steps=20
    )
    before = trainer.evaluate()["eval_mrr@10"]
    start = {name: p.detach().clone() for name, p in trainer.biencoder.named_parameters()}
    trainer.train()
    for name, parameter in trainer.biencoder.named_parameters():
        assert ("lora_" in name) is parameter.requires_grad, name
        assert parameter.requires_grad or (parameter == start[name]).all(), name
    assert trainer.evaluate()["eval_mrr@10"] > before + 0.1
    trainer.finish({})
    loaded = load_question_encoder(str(tmp_path / "run" / "question_encoder"), 64)
    assert not any("lora" in name for name in loaded.model.state_dict())
    ours = trainer.encoders["question_encoder"].encode(["what is the house of ada ?"])
    assert loaded.encode(["what is the house of ada ?"]) == pytest.approx(ours, abs=1e-5)


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"rag-finetune\[peft\]"):
        add_adapters(tiny_retriever.encoders()[0].model, 4)
