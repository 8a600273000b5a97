"""Texts to vectors: an encoder, its tokenizer, and everything that fixes what a vector means."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DPRContextEncoder,
    DPRQuestionEncoder,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging
from transformers.utils.hub import cached_file, extract_commit_hash
from transformers.utils.logging import tqdm

from rag_finetune.files import nearest

TOKENS_PER_BATCH = 16_384
TEXTS_PER_BLOCK = 8_192


@dataclass
class TextEncoder:
    """A network that turns texts into vectors, with its tokenizer.

    Attributes:
        model: returns a ModelOutput whose first field is the vector, shape (batch, dim).
        tokenizer: the tokenizer that belongs to it.
        max_length: texts are cut to this many tokens.
        name: the Hub name, or the last part of the folder's path.
        revision: the Hub commit; None when it came from a folder.
        local: True when it came from a folder.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    name: str = ""
    revision: str | None = None
    local: bool = True

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        projection_dim: int = getattr(self.model.config, "projection_dim", 0)
        return projection_dim or self.model.config.hidden_size

    def settings(self) -> dict[str, Any]:
        """What fixes a vector besides weights and tokenizer; part of the fingerprint."""
        return {
            "model_type": self.model.config.model_type,
            "pooling": "cls",
            "normalisation": None,
            "scale": 1.0,
            "prefix": "",
            "template": "title and text as a pair of sequences; no title: the text alone",
            "max_length": self.max_length,
        }

    def fingerprint(self) -> str:
        """sha256, in hex, over weights, tokenizer and settings."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
        digest.update(json.dumps(_tokenizer_state(self.tokenizer), sort_keys=True).encode())
        digest.update(json.dumps(self.settings(), sort_keys=True).encode())
        return digest.hexdigest()

    def encode(
        self, texts: Sequence[str], titles: Sequence[str] | None = None, progress: str = ""
    ) -> np.ndarray:
        """Vectors of texts, in their order, from the network in evaluation mode.

        Args:
            texts: what to encode.
            titles: the title of each text; an empty one is left out.
            progress: what the progress bar says; empty for no bar.

        Returns:
            float32, shape (len(texts), dim). Two calls with the same texts are bit-equal.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        full = 0
        bar = tqdm(total=len(texts), desc=progress, unit=" texts", disable=not progress)
        with evaluation_mode(self.model), torch.inference_mode(), bar:
            for start in range(0, len(texts), TEXTS_PER_BLOCK):
                rows = range(start, min(start + TEXTS_PER_BLOCK, len(texts)))
                block_titles = [titles[row] if titles else "" for row in rows]
                token_ids = self._tokenize([texts[row] for row in rows], block_titles)
                full += sum(len(ids["input_ids"]) == self.max_length for ids in token_ids)
                for batch in _batches([len(ids["input_ids"]) for ids in token_ids]):
                    vectors[[rows[i] for i in batch]] = self._forward([token_ids[i] for i in batch])
                    bar.update(len(batch))
        if full:
            warnings.warn(
                f"{full:,} of {len(texts):,} texts reach {self.max_length} tokens, the most that "
                "is encoded: what follows has no part in their vectors.",
                stacklevel=2,
            )
        return vectors

    def save(self, folder: Path) -> None:
        """Write network and tokenizer as an ordinary Transformers folder."""
        self.model.save_pretrained(folder)
        share_weights(folder)
        self.tokenizer.save_pretrained(folder)

    def _tokenize(self, texts: list[str], titles: list[str]) -> list[dict[str, list[int]]]:
        """Token ids of each text; with a title, of the pair (title, text)."""
        options: dict[str, Any] = {"truncation": "longest_first", "max_length": self.max_length}
        encoded: list[dict[str, list[int]]] = [{} for _ in texts]
        for with_title in (True, False):
            rows = [row for row, title in enumerate(titles) if bool(title) is with_title]
            if not rows:
                continue
            chosen = [texts[row] for row in rows]
            pairs = ([titles[row] for row in rows], chosen) if with_title else (chosen,)
            batch = self.tokenizer(*pairs, **options)
            for position, row in enumerate(rows):
                encoded[row] = {key: batch[key][position] for key in batch}
        return encoded

    def _forward(self, batch: list[dict[str, list[int]]]) -> np.ndarray:
        """Vectors of one batch of token ids."""
        padded = self.tokenizer.pad(batch, return_tensors="pt").to(self.model.device)
        vectors: np.ndarray = self.model(**padded, return_dict=True)[0].float().cpu().numpy()
        return vectors


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off for a while; every part is left as it was, also after an error."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Leave out Transformers' table of missing weights: we refuse them, and name the first."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def share_weights(folder: Path) -> None:
    """Give weights that were just saved the permissions of the config.json beside them.

    safetensors 0.8.0 makes files that their owner alone may read, whatever the umask. Delete when
    it no longer does (safetensors/safetensors#782).
    """
    mode = (folder / "config.json").stat().st_mode & 0o777
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


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


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A fast tokenizer as data, less the truncation and padding that its last call left in it."""
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} has no fast implementation. Save the tokenizer with a "
            "tokenizer.json and load it again."
        )
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in state.items() if key not in ("truncation", "padding")}


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, each of at most TOKENS_PER_BATCH padded tokens."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
