"""Low-rank adapters of peft as part of the weights that they are beside."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rag_finetune.encoders.load import require_source
from rag_finetune.encoders.network import whole_weights
from rag_finetune.files import describe, read_text
from rag_finetune.rag.four_bits import whole_linear

ADAPTER = "adapter_config.json"
NEEDS_PEFT = "needs peft, which is not installed: pip install 'rag-finetune[peft]'."


def merged(network: Any) -> Any:
    """A copy of a network whose adapters are part of its weights; itself where it has none.

    Weights that are kept in four bits are whole in the copy.
    """
    adapted = [part for part in network.modules() if hasattr(part, "lora_A")]
    if not adapted:
        return network
    # What a copy has in the place of these is known to it beforehand: they are not copied.
    instead = {id(part): whole_linear(part) or _merged_linear(part) for part in adapted}
    return copy.deepcopy(network, instead).requires_grad_(True)


def _merged_linear(part: Any) -> torch.nn.Module:
    """A copy of the layer below an adapter, with what the adapter adds."""
    one = copy.deepcopy(part)
    one.merge()
    base: torch.nn.Module = one.get_base_layer()
    return base


def base_of(folder: str) -> str:
    """The model that an adapter is for: a folder, relative to the adapter's or not, or a Hub name.

    Raises:
        ValueError: adapter_config.json is damaged or names none.
        FileNotFoundError: it names a folder that is not there.
    """
    path = Path(folder) / ADAPTER
    try:
        named = json.loads(read_text(path)).get("base_model_name_or_path")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a JSON object ({error}).") from error
    if not isinstance(named, str) or not named:
        raise ValueError(
            f'{path}: "base_model_name_or_path" must name the model that the adapter is for, found '
            f"{describe(named)}. Write its folder or Hub name there."
        )
    beside = Path(folder) / named
    base = str(beside) if beside.is_dir() else named
    require_source(base)
    return base


def load_adapted(folder: str) -> Any:
    """A causal language model in float32 with an adapter merged into its weights.

    Args:
        folder: of the adapter, as peft saves it.

    Raises:
        ValueError: peft is not installed, or the adapter does not fit.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ValueError(f"{folder}: is an adapter, which {NEEDS_PEFT}") from error
    base = base_of(folder)
    with whole_weights(base):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with whole_weights(folder):
        return PeftModel.from_pretrained(model, folder).merge_and_unload()
