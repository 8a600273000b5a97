"""Load a RAG head of Transformers: sequence or token, with an encoder-decoder generator."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    RagConfig,
    RagSequenceForGeneration,
    RagTokenForGeneration,
    RagTokenizer,
)

from rag_finetune.encoders.conventions import naming_source
from rag_finetune.encoders.load import require_source
from rag_finetune.encoders.network import load_tokenizer, whole_weights

MODEL_TYPES: dict[str, Any] = {
    "rag_sequence": RagSequenceForGeneration,
    "rag_token": RagTokenForGeneration,
}


def load_head(folder: str | Path, model_type: str | None) -> tuple[Any, RagTokenizer]:
    """Load the RAG head that a checkpoint names, or another, with its generation settings."""
    config = _load_config(folder)
    model_class = _model_class(folder, config, model_type)
    tokenizer = RagTokenizer(
        load_tokenizer(folder, "question_encoder_tokenizer", config.question_encoder),
        load_tokenizer(folder, "generator_tokenizer", config.generator),
    )
    # 5.x loads in the checkpoint's dtype; training needs float32.
    with whole_weights(str(folder)):
        model, info = model_class.from_pretrained(
            folder, config=config, output_loading_info=True, dtype=torch.float32
        )
    require_weights(str(folder), info, "a RAG model")
    # Transformers 5.23 gives a reloaded RagSequence the defaults of its generator's configuration:
    # num_beams and others are lost. Delete when it reads the file.
    settings = _load_generation_config(folder) or model.rag.generator.generation_config
    set_generation_config(model, settings)
    return model, tokenizer


def set_generation_config(model: Any, settings: GenerationConfig) -> None:
    """Give both the RAG model and the generator within it the same generation settings."""
    model.generation_config = settings
    model.rag.generator.generation_config = settings


def _load_config(folder: str | Path) -> Any:
    """The configuration of a checkpoint; says what to do when it is that of another model."""
    if Path(folder).is_dir() and not (Path(folder) / "config.json").is_file():
        encoder = Path(folder) / "question_encoder"
        hint = f" It holds encoders: assemble --question_encoder {encoder} … makes one of them."
        raise FileNotFoundError(
            f"{folder}: not a checkpoint, config.json is missing. Make one with "
            f"`rag-finetune assemble` or `rag-finetune train`.{hint if encoder.is_dir() else ''}"
        )
    require_source(folder)
    with naming_source(str(folder)):
        config, _ = RagConfig.get_config_dict(folder)
    if config.get("model_type") != "rag":
        raise ValueError(
            f'{folder}: expected a RAG checkpoint, found model type "{config.get("model_type")}". '
            "Join question encoder and generator first: `rag-finetune assemble`; with a "
            "decoder-only generator, `rag-finetune train-causal` then trains them."
        )
    return RagConfig.from_pretrained(folder)


def _load_generation_config(folder: str | Path) -> GenerationConfig | None:
    """The generation settings of a checkpoint, also on the Hub; None where it has none."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:
        return None


def _model_class(folder: str | Path, config: RagConfig, model_type: str | None) -> Any:
    """The head to load a checkpoint with."""
    if model_type is not None:
        require_model_type(model_type)
        return MODEL_TYPES[model_type]
    classes = {cls.__name__: cls for cls in MODEL_TYPES.values()}
    names = [name for name in config.architectures or () if name in classes]
    if not names:
        raise ValueError(
            f"{folder}: config.json names no RAG head in architectures, found "
            f"{config.architectures}. Say which: --model_type {' or '.join(MODEL_TYPES)}."
        )
    return classes[names[0]]


def require_model_type(model_type: str) -> None:
    """Raise for an unknown head."""
    if model_type not in MODEL_TYPES:
        raise ValueError(f'model_type must be {" or ".join(MODEL_TYPES)}, found "{model_type}".')


def require_weights(name: str, info: Mapping[str, Any], what: str) -> None:
    """Raise where Transformers drew random weights for those it did not find."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{name}: not the weights of {what}: {len(missing)} tensors are missing, the first is "
            f'"{missing[0]}".'
        )


def require_heads(model: Any) -> None:
    """Raise for a model that is none of Transformers' RAG heads.

    Raises:
        ValueError: it has a decoder-only generator.
    """
    if not isinstance(model, tuple(MODEL_TYPES.values())):
        raise ValueError(
            "The model has a decoder-only generator. Train it with CausalRagTrainer: rag-finetune "
            "train-causal."
        )
