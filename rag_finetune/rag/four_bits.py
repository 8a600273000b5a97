"""Linear layers in four bits, which fixed weights can be kept in while adapters learn."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

NEEDS_BITSANDBYTES = (
    "needs bitsandbytes, which is not installed: pip install 'rag-finetune[qlora]'."
)


def to_four_bits(network: Any, device: torch.device) -> None:
    """Put four-bit weights (NF4) in the place of those of every linear layer but the output's.

    One layer after the other goes to the device. The whole weights stay in main memory, for the
    network that is saved (`whole_linear`).

    Args:
        network: a generator; changed in place.
        device: where it will be.

    Raises:
        ValueError: bitsandbytes is not installed, there is no linear layer, or there are adapters.

    Source:
        Dettmers et al. 2023, arXiv:2305.14314, section 3.
    """
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise ValueError(f"--load_in_4bit {NEEDS_BITSANDBYTES}") from error
    if any(hasattr(part, "lora_A") for part in network.modules()):
        raise ValueError("load_in_4bit: the generator has adapters already. Load it again.")
    output = network.get_output_embeddings()
    linear = {
        name: part
        for name, part in network.named_modules()
        if type(part) is nn.Linear and part is not output
    }
    if not linear:
        raise ValueError(
            f"load_in_4bit: {type(network).__name__} has no linear layers of torch to keep in four "
            "bits. Leave it out."
        )
    for name, part in linear.items():
        whole, sizes = part.weight.detach().cpu(), (part.in_features, part.out_features)
        small = Linear4bit(*sizes, bias=part.bias is not None, device="meta")
        small.weight = Params4bit(whole, requires_grad=False, quant_type="nf4")
        small.bias = part.bias
        small.to(device).train(part.training)
        # Else an evaluation lays the weights out for a product that has no gradient.
        small.support_avx512bf16_for_cpu = False
        small.whole = whole  # neither a parameter nor a buffer: it is not moved, nor saved
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, small)


def compute_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Let layers in four bits multiply in a type; else it is that of what first reaches each."""
    for part in _in_four_bits(network):
        part.compute_dtype, part.compute_type_is_set = dtype, True


def whole_linear(adapted: Any) -> nn.Linear | None:
    """The whole weights below an adapter with what the adapter adds; None where they are no less.

    Args:
        adapted: a linear layer of peft with one adapter.
    """
    base = adapted.get_base_layer()
    whole = getattr(base, "whole", None)
    if whole is None:
        return None
    [adapter] = adapted.active_adapters
    added = adapted.get_delta_weight(adapter).detach()
    sizes = base.in_features, base.out_features
    linear = nn.Linear(*sizes, bias=base.bias is not None, device="meta")
    linear.weight = nn.Parameter(whole + added.to(whole))
    if base.bias is not None:
        linear.bias = nn.Parameter(base.bias.detach().to(whole, copy=True))
    return linear


def parameter_count(network: nn.Module) -> int:
    """How many parameters a network has; of weights in four bits, those that they stand for."""
    packed = {id(part.weight): part.whole.numel() for part in _in_four_bits(network)}
    return sum(packed.get(id(p), p.numel()) for p in network.parameters())


def _in_four_bits(network: nn.Module) -> Iterator[Any]:
    """The layers that `to_four_bits` made."""
    return (part for part in network.modules() if hasattr(part, "whole"))
