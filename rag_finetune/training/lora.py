"""Low-rank adapters in a network, put in for training."""

from torch import nn
from transformers.pytorch_utils import Conv1D

from rag_finetune.rag.adapters import NEEDS_PEFT


def add_adapters(network: nn.Module, rank: int) -> None:
    """Put an adapter of a rank beside every linear layer; nothing else trains any more.

    Args:
        network: an encoder or a generator; changed in place. The output layer gets none.
        rank: of the adapters; they are scaled by two.

    Raises:
        ValueError: peft is not installed.

    Source:
        Hu et al. 2021, arXiv:2106.09685.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(f"--lora_rank {NEEDS_PEFT}") from error
    output = getattr(network, "get_output_embeddings", lambda: None)()
    linear = {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear | Conv1D) and part is not output
    }
    inject_adapter_in_model(
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=0.0,
            target_modules=list(linear),
            fan_in_fan_out=any(isinstance(part, Conv1D) for part in linear.values()),  # GPT-2's
        ),
        network,
    )
