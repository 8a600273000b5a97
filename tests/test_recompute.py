"""Activations that are computed again: the same bits, fewer bytes kept."""

from contextlib import nullcontext

import pytest
import tiny_rag
import torch
from tiny_training import logged, same, train_tiny, weights
from torch import nn
from torch.nn import functional

from rag_finetune.rag import targets
from rag_finetune.rag.recompute import _pack, _Recipe, recomputed_activations


class FeedForward(nn.Module):
    """Two layers with GELU between, and dropout where asked."""

    def __init__(self, dropout: float, approximate: str = "none") -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 8)
        self.dropout, self.approximate = dropout, approximate

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        wide = functional.gelu(self.first(states), approximate=self.approximate)
        return self.second(functional.dropout(wide, self.dropout, self.training))


def gradients_of(network: nn.Module, states: torch.Tensor, context) -> list[torch.Tensor]:
    network.zero_grad()
    torch.manual_seed(1)
    with context:
        loss = network(states).square().sum()
    loss.backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


def recipes_of(network: nn.Module, states: torch.Tensor) -> int:
    """How many tensors of a forward pass are not kept."""
    found = []

    def pack(tensor):
        found.append(isinstance(_pack(tensor), _Recipe))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(states)
    return sum(found)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 8)], ids=str)
def test_gradients_are_the_same_bits_and_the_output_of_gelu_is_not_kept(
    dropout, approximate, shape
):
    torch.manual_seed(0)
    network, states = FeedForward(dropout, approximate), torch.randn(shape)
    expected = gradients_of(network, states, nullcontext())
    found = gradients_of(network, states, recomputed_activations())
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    assert recipes_of(network, states) == 1


def test_what_is_no_output_of_gelu_is_kept():
    states = torch.randn(2, 5, 8)
    relu = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
    assert recipes_of(relu, states) == 0


def test_every_layer_of_bart_keeps_less_also_with_dropout(tmp_path):
    generator = tiny_rag.tiny_rag(tmp_path, dropout=0.1).model.rag.generator.train()
    layers = generator.config.encoder_layers + generator.config.decoder_layers
    ids = torch.tensor([[2, 5, 6, 2]])
    found = recipes_of(lambda ids: generator(input_ids=ids, decoder_input_ids=ids), ids)
    assert found == layers > 0


def test_several_losses_of_one_pass_are_taken_back_one_after_the_other():
    network, states = FeedForward(0.0), torch.randn(3, 8)
    with recomputed_activations():
        outputs = network(states)
    outputs.sum().backward(retain_graph=True)
    once = network.first.weight.grad.clone()
    outputs.sum().backward()
    torch.testing.assert_close(network.first.weight.grad, 2 * once)


@pytest.mark.parametrize("kind", ["bart", "t5"])
@pytest.mark.parametrize(
    "options", [{}, {"bf16": True}, {"activation_checkpointing": True}], ids=str
)
def test_a_training_is_the_same_to_the_bit(tmp_path, monkeypatch, kind, options):
    runs = []
    for name in ("again", "kept"):
        if name == "kept":
            monkeypatch.setattr(targets, "recomputed_activations", nullcontext)
        rag = tiny_rag.tiny_rag(tmp_path / name, kind, dropout=0.1)
        runs.append(train_tiny(tmp_path / name, rag=rag, max_steps=3, **options))
    assert logged(runs[0], "loss") == logged(runs[1], "loss")
    assert all(same(*(weights(trainer.rag.model) for trainer in runs)).values())
