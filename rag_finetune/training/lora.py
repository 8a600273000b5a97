"""Low-rank adapters in an encoder: put in for training, merged into its weights for saving."""

import copy
from typing import Any

from torch import nn


def add_adapters(network: nn.Module, rank: int) -> None:
    """Put an adapter of a rank beside every linear layer; nothing else trains any more.

    Args:
        network: the encoder; changed in place.
        rank: of the adapters; they are scaled by two.

    Raises:
        ValueError: peft is not installed.

    Source:
        Hu et al. 2021, arXiv:2106.09685.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(
            "--lora_rank needs peft, which is not installed: pip install 'rag-finetune[peft]'."
        ) from error
    linear = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=linear), network
    )


def merged(network: Any) -> Any:
    """A copy of an encoder whose adapters are part of its weights; itself where it has none."""
    if not any(hasattr(part, "lora_A") for part in network.modules()):
        return network
    whole = copy.deepcopy(network)
    for name, part in list(whole.named_modules()):
        if hasattr(part, "lora_A"):
            part.merge()
            parent, _, own = name.rpartition(".")
            setattr(whole.get_submodule(parent), own, part.get_base_layer())
    return whole.requires_grad_(True)
