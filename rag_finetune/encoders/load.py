"""Load context and question encoders from a folder or the Hub."""

import warnings
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils.hub import cached_file, extract_commit_hash

from rag_finetune.encoders.conventions import Convention, agree, folder_convention
from rag_finetune.encoders.network import (
    CONTEXT_ENCODER,
    QUESTION_ENCODER,
    Role,
    load_config,
    load_dpr,
    load_network,
    load_pooled,
    load_tokenizer,
    require_encoder,
)
from rag_finetune.encoders.pooled import (
    PooledEncoder,
    PooledEncoderConfig,
    register,
    require_pooling,
)
from rag_finetune.encoders.prefix import with_prefix
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.files import nearest


def require_source(name_or_path: str | Path) -> None:
    """Raise where a path to a folder leads nowhere; anything else may be a Hub name.

    Raises:
        FileNotFoundError: it starts like a path, has more parts than a name of the Hub, or is
            nearly the name of a folder beside it, and there is no such folder.
        NotADirectoryError: it is a file.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return
    if path.is_file():
        raise NotADirectoryError(f"{name_or_path}: expected a folder or a Hub name, found a file.")
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    meant = nearest(path.name, beside)
    hint = f" Did you mean {path.parent / meant}?" if meant else ""
    if hint or len(path.parts) > 2 or str(name_or_path).startswith((".", "/", "~")):
        raise FileNotFoundError(f"{name_or_path}: no such folder.{hint}")


def load_context_encoder(
    name_or_path: str,
    max_length: int = 256,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    prefix: str | None = None,
) -> TextEncoder:
    """Load the network that encodes passages.

    Args:
        name_or_path: a folder or a Hub name: a DPR context encoder, a sentence-transformers
            encoder, one that was saved by this package, or any other BERT-like encoder.
        max_length: passages are cut to this many tokens, at most what the encoder can take.
        pooling: "cls" or "mean"; None for what the folder says, or is known of the name, or else
            the mean, with a warning.
        normalize: whether vectors are brought to length 1; None as for pooling, or else not.
        prefix: what stands in front of every passage; None as for pooling, or else nothing.

    Returns:
        The encoder in float32 and evaluation mode. A BERT with CLS pooling and no normalisation is
        a DPR model, any other a `PooledEncoder`; scale 1.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no encoder, its weights are those of another kind of network, or its
            pooling is none of ours.
    """
    asked = Convention(pooling, normalize, prefix, max_length)
    encoder = _load_encoder(name_or_path, CONTEXT_ENCODER, asked)
    if isinstance(encoder.model, PooledEncoder) and encoder.model.config.scale != 1:
        warnings.warn(
            f"{name_or_path}: vectors of passages are not scaled; its scale "
            f"{encoder.model.config.scale:g}, which is for questions, is left out.",
            stacklevel=2,
        )
        encoder.model.config.scale = 1.0
    return encoder


def load_question_encoder(
    name_or_path: str,
    max_length: int = 128,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    prefix: str | None = None,
) -> TextEncoder:
    """Load the network that encodes questions.

    Args:
        name_or_path: a folder or a Hub name, as for `load_context_encoder`.
        max_length: questions are cut to this many tokens, at most what the encoder can take.
        pooling: as for `load_context_encoder`.
        normalize: as for `load_context_encoder`.
        prefix: what stands in front of every question.

    Returns:
        The encoder in float32 and evaluation mode, with the scale that it was saved with, or 1:
        `assemble_rag` sets another.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: as for `load_context_encoder`.
    """
    asked = Convention(pooling, normalize, prefix, max_length)
    return _load_encoder(name_or_path, QUESTION_ENCODER, asked)


def _load_encoder(name_or_path: str, role: Role, asked: Convention) -> TextEncoder:
    """Load network and tokenizer in the form that `asked` and the folder call for."""
    register()
    require_source(name_or_path)
    if asked.pooling is not None:
        require_pooling(asked.pooling)
    local = Path(name_or_path).is_dir()
    told = folder_convention(name_or_path, role.side)
    subfolder = told.subfolder if told else ""
    config = load_config(name_or_path, subfolder)
    ours = config.model_type in ("dpr", PooledEncoderConfig.model_type)
    if not ours:
        require_encoder(name_or_path, role, config)
    tokenizer = load_tokenizer(name_or_path, subfolder)
    tokenizer.padding_side = "right"  # the vector may be that of the first token
    if told and told.max_length:
        tokenizer.model_max_length = min(tokenizer.model_max_length, told.max_length)
    if told and told.lower_case and tokenizer("A")["input_ids"] != tokenizer("a")["input_ids"]:
        raise ValueError(
            f"{name_or_path}/sentence_bert_config.json: do_lower_case is true, and the tokenizer "
            "does not lower-case. Save it with a Lowercase normaliser, and set it to false."
        )
    how = asked if ours else agree(name_or_path, role.side, asked, told)
    model: PreTrainedModel
    if config.model_type == "dpr":
        model = load_dpr(name_or_path, role, asked)
    elif ours:
        model = load_pooled(name_or_path, role, asked)
    else:
        model = load_network(name_or_path, subfolder, role, how, tokenizer.pad_token_id)
    _require_vocabulary(name_or_path, model.config, len(tokenizer))
    if how.prefix is not None:
        tokenizer = with_prefix(tokenizer, how.prefix)
    assert asked.max_length is not None
    most = min(model.config.max_position_embeddings, tokenizer.model_max_length)
    return TextEncoder(
        model=model.eval(),
        tokenizer=tokenizer,
        max_length=min(asked.max_length, most),
        name=Path(name_or_path).resolve().name if local else name_or_path,
        revision=None if local else _hub_revision(name_or_path, subfolder),
        local=local,
    )


def _require_vocabulary(name: str, config: Any, tokens: int) -> None:
    """Raise where a tokenizer gives ids that the network does not have."""
    vocabulary = getattr(config, "inner", config).vocab_size
    if tokens > vocabulary:
        raise ValueError(
            f"{name}: the tokenizer does not belong to the network: {tokens} tokens against "
            f"{vocabulary}."
        )


def _hub_revision(name: str, subfolder: str) -> str | None:
    """The Hub commit that a name led to, read off where its config.json is cached."""
    return extract_commit_hash(cached_file(name, "config.json", subfolder=subfolder), None)
