"""Weights in four bits: what is computed is that of the rounded weights, what is saved is whole."""

import copy
import sys

import pytest
import tiny_causal
import tiny_rag
import torch
from tiny_causal import finished_adapters, train_causal
from tiny_training import same, weights
from torch import nn

from rag_finetune.rag.adapters import merged
from rag_finetune.rag.four_bits import parameter_count, to_four_bits
from rag_finetune.training.causal_arguments import CausalTrainingArguments
from rag_finetune.training.lora import add_adapters

functional = pytest.importorskip("bitsandbytes.functional")
pytest.importorskip("peft")
IDS = torch.tensor([[3, 7, 2, 9, 4, 5]])


def generator():
    torch.manual_seed(0)
    network = tiny_causal.network()
    tiny_rag.spread(network, 0.3)
    return network.eval()


def in_four_bits(network):
    small = copy.deepcopy(network)
    to_four_bits(small, torch.device("cpu"))
    return small


def linear_layers(network):
    output = network.get_output_embeddings()
    return {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear) and part is not output
    }


def test_it_computes_by_the_rounded_weights(tmp_path):
    whole = generator()
    small, rounded = in_four_bits(whole), copy.deepcopy(whole)
    for name, part in linear_layers(small).items():
        assert part.weight.dtype == torch.uint8
        assert part.weight.numel() * 2 == rounded.get_submodule(name).weight.numel()
        assert torch.equal(part.whole, whole.get_submodule(name).weight)
        value = functional.dequantize_4bit(part.weight.data, part.weight.quant_state)
        with torch.no_grad():
            rounded.get_submodule(name).weight.copy_(value)
    assert torch.equal(small.lm_head.weight, whole.lm_head.weight)
    with torch.no_grad():
        found, expected, before = (one(input_ids=IDS).logits for one in (small, rounded, whole))
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, before, atol=1e-4)


def test_what_adapters_add_is_added_to_the_whole_weights():
    whole = generator()
    small = in_four_bits(whole)
    for network in (whole, small):
        add_adapters(network, 2)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw))
                small.get_parameter(name).copy_(parameter)
    ours, theirs = weights(merged(small)), weights(merged(whole))
    assert ours.keys() == theirs.keys() == weights(generator()).keys()
    for name, weight in theirs.items():
        assert torch.allclose(ours[name], weight, atol=1e-6), name
    assert all(part.requires_grad for part in merged(small).parameters())


def test_adapters_alone_learn_and_a_run_goes_on(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    start, options = weights(rag.model.generator), {"lora_rank": 2, "load_in_4bit": True}
    options |= {"save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-2}
    trainer = train_causal(tmp_path, rag, **options)
    assert any(p.dtype == torch.uint8 for p in rag.model.generator.parameters())
    saved = finished_adapters(trainer, start)
    moved = {name for name, is_same in same(start, saved).items() if not is_same}
    assert moved == {f"{name}.weight" for name in linear_layers(generator())}
    assert max((saved[name] - start[name]).abs().max() for name in moved) < 0.1  # not rounded
    again = tiny_causal.tiny_causal(tmp_path / "again")
    resumed = train_causal(
        tmp_path / "again", again, resume=str(tmp_path / "run/checkpoint-1"), **options
    )
    assert all(same(weights(rag.model), weights(resumed.rag.model)).values())


def test_an_evaluation_between_changes_no_gradient():
    small = in_four_bits(generator())
    add_adapters(small, 2)
    found = []
    for _ in range(2):
        small.train()
        small.zero_grad()
        small(input_ids=IDS).logits.square().sum().backward()
        found.append([p.grad.clone() for p in small.parameters() if p.grad is not None])
        small.eval()
        with torch.no_grad():
            small(input_ids=IDS)
    assert found[0] and all(map(torch.equal, *found))


def test_it_multiplies_in_the_type_of_the_run(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    train_causal(tmp_path, rag, lora_rank=2, load_in_4bit=True, bf16=True, max_steps=1)
    small = [part for part in rag.model.generator.modules() if hasattr(part, "whole")]
    assert {part.compute_dtype for part in small} == {torch.bfloat16}
    with pytest.raises(ValueError, match="has adapters already"):
        to_four_bits(rag.model.generator, torch.device("cpu"))


def test_parameters_are_counted_as_if_they_were_whole():
    assert parameter_count(in_four_bits(generator())) == parameter_count(generator())


def test_without_adapters_nothing_could_learn(tmp_path):
    with pytest.raises(ValueError, match=r"something has to learn: give --lora_rank"):
        CausalTrainingArguments(str(tmp_path), eval_strategy="no", load_in_4bit=True)


def test_a_network_without_linear_layers_is_refused():
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no linear layers of torch"):
        to_four_bits(tiny_causal.network("gpt2"), torch.device("cpu"))


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    with pytest.raises(ValueError, match=r"--load_in_4bit needs bitsandbytes.*\[qlora\]"):
        to_four_bits(generator(), torch.device("cpu"))
