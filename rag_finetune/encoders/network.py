"""Load the network of an encoder and its tokenizer, refusing what would only look like them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    DPRContextEncoder,
    DPRQuestionEncoder,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from rag_finetune.encoders.conventions import PASSAGE, QUESTION, Convention, naming_source
from rag_finetune.encoders.dpr import dpr_from_bert
from rag_finetune.encoders.pooled import PooledEncoder, PooledEncoderConfig


class Role(NamedTuple):
    """What an encoder is loaded as: in words, whose texts it reads, and its class in DPR."""

    name: str
    side: str
    dpr_class: Any


CONTEXT_ENCODER = Role("context encoder", PASSAGE, DPRContextEncoder)
QUESTION_ENCODER = Role("question encoder", QUESTION, DPRQuestionEncoder)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Leave out Transformers' table of missing weights: we refuse them, and name the first."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def whole_weights(name: str) -> Iterator[None]:
    """Raise one kind of error, with the name, for weights that are damaged or of other shapes.

    Raises:
        ValueError: the weights cannot be read, or do not fit config.json.
    """
    try:
        yield
    except Exception as error:
        # safetensors has an error of its own; importing it would be a dependency.
        if type(error).__name__ != "SafetensorError" and not isinstance(error, RuntimeError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{name}: its weights are damaged or do not fit its config.json ({reason}). Save or "
            "download them again."
        ) from error


def load_config(name: str, subfolder: str = "") -> PreTrainedConfig:
    """Load the configuration of a network, of a kind that Transformers itself knows.

    Raises:
        FileNotFoundError: the folder has no config.json.
        ValueError: the network is one of code of its own, which is not run.
    """
    folder = Path(name) / subfolder
    if Path(name).is_dir() and not (folder / "config.json").is_file():
        within = [str(path.parent) for path in sorted(folder.glob("*/config.json"))]
        hint = f" Did you mean {' or '.join(within)}?" if within else ""
        raise FileNotFoundError(
            f"{folder}: not the folder of a network, config.json is missing.{hint}"
        )
    with naming_source(name):
        found, _ = PreTrainedConfig.get_config_dict(name, subfolder=subfolder)
    model_type = found.get("model_type")
    if model_type not in CONFIG_MAPPING:
        code = "auto_map" in found
        reason = "It needs code of its own, which is not run. " if code else ""
        raise ValueError(
            f'{name}: Transformers has no model type "{model_type}". {reason}Choose another model.'
        )
    config: PreTrainedConfig = AutoConfig.from_pretrained(name, subfolder=subfolder)
    return config


def load_tokenizer(
    name: str | Path, subfolder: str = "", config: PreTrainedConfig | None = None
) -> PreTrainedTokenizerBase:
    """Load a tokenizer; refuse the one that Transformers makes up where there are no files of one.

    Args:
        name: folder or Hub name.
        subfolder: where in it the tokenizer is.
        config: of the network that it belongs to; None for the one beside it.

    Raises:
        ValueError: there is no tokenizer.
    """
    options: dict[str, Any] = {} if config is None else {"config": config}
    place = f"{name}/{subfolder}" if subfolder else str(name)
    missing = (
        f"{place}: no tokenizer that can be loaded. Put its files there, such as tokenizer.json "
        "and tokenizer_config.json."
    )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, subfolder=subfolder, **options)
    except Exception as error:  # tokenizers raises no kind of its own
        raise ValueError(missing) from error
    # Transformers 5.23 makes up a tokenizer that knows special tokens alone, and says nothing.
    if not set(tokenizer.get_vocab()) - {*tokenizer.all_special_tokens, "▁"}:
        raise ValueError(missing)
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def load_dpr(name: str, role: Role, asked: Convention) -> PreTrainedModel:
    """Load a DPR model, whose pooling is fixed.

    Raises:
        ValueError: it is the other encoder of the pair, or another pooling is asked for.
    """
    if asked.pooling == "mean" or asked.normalize:
        raise ValueError(
            f"{name}: is a DPR model: its vectors are the first token's, not normalised. Leave "
            "--pooling and --normalize out."
        )
    with quiet_loading(), whole_weights(name):
        # 5.x loads in the checkpoint's dtype; vectors are float32.
        model, info = role.dpr_class.from_pretrained(
            name, output_loading_info=True, dtype=torch.float32
        )
    _require_weights(name, role, info, " Was the other encoder of the pair meant?")
    loaded: PreTrainedModel = model
    return loaded


def load_pooled(name: str, role: Role, asked: Convention) -> PooledEncoder:
    """Load an encoder that was saved as a `PooledEncoder`; what was asked for replaces its own."""
    network: Any = PooledEncoder
    with quiet_loading(), whole_weights(name):
        model, info = network.from_pretrained(name, output_loading_info=True, dtype=torch.float32)
    _require_weights(name, role, info)
    model.config.pooling = asked.pooling or model.config.pooling
    if asked.normalize is not None:
        model.config.normalize = asked.normalize
    loaded: PooledEncoder = model
    return loaded


def load_network(
    name: str, subfolder: str, role: Role, how: Convention, pad_token_id: int | None
) -> PreTrainedModel:
    """Load any BERT-like network, as a DPR model where that is exact, else as a `PooledEncoder`.

    Args:
        name: folder or Hub name.
        subfolder: where in it the network is.
        role: what it is loaded as.
        how: pooling and normalisation.
        pad_token_id: the tokenizer's.

    Raises:
        ValueError: its weights are those of another kind of network.
    """
    with quiet_loading(), whole_weights(name):
        inner, info = AutoModel.from_pretrained(
            name, subfolder=subfolder, output_loading_info=True, dtype=torch.float32
        )
    _require_weights(name, role, info)
    if inner.config.model_type == "bert" and how.pooling == "cls" and not how.normalize:
        return dpr_from_bert(inner, role.dpr_class, pad_token_id)
    inner.config._name_or_path = ""  # a path of this machine, else saved with the model
    pooled = PooledEncoderConfig(
        inner=inner.config.to_dict(),  # a copy: else its attention would be chosen anew
        pooling=how.pooling or "mean",
        normalize=bool(how.normalize),
        max_position_embeddings=usable_positions(inner),
        pad_token_id=pad_token_id,
    )
    return PooledEncoder(pooled, inner)


def require_encoder(name: str, role: Role, config: Any) -> None:
    """Raise for a network that is no encoder of text.

    Raises:
        ValueError: it generates (sequence-to-sequence, decoder-only), or has no vector to give.
    """
    found = None
    if config.is_encoder_decoder:
        found = "a sequence-to-sequence model"
    elif type(config) not in MODEL_FOR_MASKED_LM_MAPPING or getattr(config, "is_decoder", False):
        # What reads to the left and to the right alike is trained by masking, as BERT is.
        found = "no encoder of text that reads in both directions"
    elif not isinstance(getattr(config, "hidden_size", None), int):
        found = "a network without a hidden size"
    if found:
        raise ValueError(
            f'{name}: expected a {role.name}, found model type "{config.model_type}", {found}. '
            "Give a DPR encoder or a BERT-like one."
        )


def usable_positions(network: Any) -> int:
    """Tokens that a network can take at most.

    RoBERTa and its kin number positions from their padding id onwards, so that of 514 positions
    512 can be used.
    """
    positions: int | None = getattr(network.config, "max_position_embeddings", None)
    if positions is None:
        return 512
    offsets = (
        module.padding_idx + 1
        for part, module in network.named_modules()
        if part.endswith("position_embeddings")
        and isinstance(module, nn.Embedding)
        and module.padding_idx is not None
    )
    return positions - next(offsets, 0)


def _require_weights(name: str, role: Role, info: Mapping[str, Any], hint: str = "") -> None:
    """Raise where Transformers drew random weights for those it did not find."""
    # A pooler is not used.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(
            f"{name}: these are not the weights of a {role.name}: {len(missing)} tensors are "
            f'missing, the first is "{missing[0]}".{hint}'
        )
