"""Load context and question encoders from a folder or the Hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder
from transformers.utils import logging
from transformers.utils.hub import cached_file, extract_commit_hash

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.files import nearest


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Leave out Transformers' table of missing weights: we refuse them, and name the first."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def require_source(name_or_path: str | Path) -> None:
    """Raise where a path to a folder leads nowhere; anything else may be a Hub name.

    Raises:
        FileNotFoundError: it starts like a path, or is nearly the name of a folder beside it, and
            there is no such folder.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    meant = nearest(path.name, beside)
    hint = f" Did you mean {path.parent / meant}?" if meant else ""
    if hint or str(name_or_path).startswith((".", "/", "~")):
        raise FileNotFoundError(f"{name_or_path}: no such folder.{hint}")


def load_context_encoder(name_or_path: str, max_length: int = 256) -> TextEncoder:
    """Load the network that encodes passages.

    Args:
        name_or_path: a folder or a Hub name of a DPR context encoder.
        max_length: passages are cut to this many tokens, at most what the network can take.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is not a DPR encoder, or its weights are those of another kind of network.
    """
    return _load_encoder(name_or_path, DPRContextEncoder, "context encoder", max_length)


def load_question_encoder(name_or_path: str, max_length: int = 128) -> TextEncoder:
    """Load the network that encodes questions.

    Args:
        name_or_path: a folder or a Hub name of a DPR question encoder.
        max_length: questions are cut to this many tokens, at most what the network can take.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is not a DPR encoder, or its weights are those of another kind of network.
    """
    return _load_encoder(name_or_path, DPRQuestionEncoder, "question encoder", max_length)


def _load_encoder(name_or_path: str, model_class: Any, role: str, max_length: int) -> TextEncoder:
    """Load network and tokenizer; refuse weights that do not fit instead of drawing new ones."""
    require_source(name_or_path)
    local = Path(name_or_path).is_dir()
    model: Any
    info: dict[str, Any]
    config = AutoConfig.from_pretrained(name_or_path)
    if config.model_type != "dpr":
        raise ValueError(
            f'{name_or_path}: expected a DPR {role}, found model type "{config.model_type}". '
            "Give a folder or Hub name of a DPR model, such as facebook/dpr-*-single-nq-base."
        )
    # 5.x loads in the checkpoint's dtype; vectors are float32.
    with quiet_loading():
        model, info = model_class.from_pretrained(
            name_or_path, output_loading_info=True, dtype=torch.float32
        )
    if info["missing_keys"]:
        raise ValueError(
            f"{name_or_path}: these are not the weights of a {role}: "
            f"{len(info['missing_keys'])} tensors are missing, the first is "
            f'"{min(info["missing_keys"])}". Was the other encoder of the pair meant?'
        )
    return TextEncoder(
        model=model.eval(),
        tokenizer=AutoTokenizer.from_pretrained(name_or_path),
        max_length=min(max_length, config.max_position_embeddings),
        name=Path(name_or_path).resolve().name if local else name_or_path,
        revision=None if local else _hub_revision(name_or_path),
        local=local,
    )


def _hub_revision(name: str) -> str | None:
    """The Hub commit that a name led to, read off where its config.json is cached."""
    return extract_commit_hash(cached_file(name, "config.json"), None)
