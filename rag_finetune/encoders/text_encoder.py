"""A network that turns texts into vectors, with its tokenizer and all that fixes a vector."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rag_finetune.encoders.encode import encode_texts


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
        return encode_texts(self, texts, titles, progress)

    def save(self, folder: Path) -> None:
        """Write network and tokenizer as an ordinary Transformers folder."""
        self.model.save_pretrained(folder)
        share_weights(folder)
        self.tokenizer.save_pretrained(folder)

    def tokenize(self, texts: list[str], titles: list[str]) -> list[dict[str, list[int]]]:
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

    def forward(self, batch: list[dict[str, list[int]]]) -> np.ndarray:
        """Vectors of one batch of token ids."""
        padded = self.tokenizer.pad(batch, return_tensors="pt").to(self.model.device)
        vectors: np.ndarray = self.model(**padded, return_dict=True)[0].float().cpu().numpy()
        return vectors


def share_weights(folder: Path) -> None:
    """Give weights that were just saved the permissions of the config.json beside them.

    safetensors 0.8.0 makes files that their owner alone may read, whatever the umask. Delete when
    it no longer does (safetensors/safetensors#782).
    """
    mode = (folder / "config.json").stat().st_mode & 0o777
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A fast tokenizer as data, less the truncation and padding that its last call left in it."""
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} has no fast implementation. Save the tokenizer with a "
            "tokenizer.json and load it again."
        )
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in state.items() if key not in ("truncation", "padding")}
