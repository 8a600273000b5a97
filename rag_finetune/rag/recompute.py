"""Activations that the backward pass computes again instead of finding them kept: the same bits."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import gelu

RESHAPES = ("ViewBackward0", "UnsafeViewBackward0")


class _Recipe(NamedTuple):
    """How to make a tensor again: GELU of what its own gradient needs anyway, times dropout."""

    node: Any
    noise: Tensor | None
    shape: torch.Size


def recomputed_activations() -> saved_tensors_hooks:
    """A context within which a forward pass keeps no output of GELU for its gradients.

    GELU keeps its input, and the linear layer behind it the output, both as wide as the
    feed-forward layer. The output follows from the input, at the price of one elementwise
    operation. Gradients are the same to the last bit. Dropout in between is remembered where it is
    a product, as on the processor; else the output is kept.
    """
    return saved_tensors_hooks(_pack, _unpack)


def _pack(tensor: Tensor) -> "Tensor | _Recipe":
    """What is kept of a tensor that a gradient needs."""
    node, noise = _maker(tensor.grad_fn), None
    if node is not None and node.name() == "MulBackward0" and node.next_functions[1][0] is None:
        noise = node._saved_other
        node = _maker(node.next_functions[0][0])
    if node is None or node.name() != "GeluBackward0":
        return tensor
    if noise is not None and noise.shape != node._saved_self.shape:
        return tensor
    return _Recipe(node, noise, tensor.shape)


def _maker(node: Any) -> Any:
    """The operation that computed a tensor, from the one that reshaped it last."""
    while node is not None and node.name() in RESHAPES:
        node = node.next_functions[0][0]
    return node


@torch.no_grad()
def _unpack(kept: "Tensor | _Recipe") -> Tensor:
    """The tensor, made again where it was not kept."""
    if isinstance(kept, Tensor):
        return kept
    made = gelu(kept.node._saved_self, approximate=kept.node._saved_approximate)
    if kept.noise is not None:
        made = made * kept.noise
    return made.view(kept.shape)
