"""A network that turns texts into vectors, with its tokenizer and all that fixes a vector."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rag_finetune.encoders.encode import encode_texts
from rag_finetune.encoders.pooled import PooledEncoderConfig
from rag_finetune.encoders.prefix import prefix_of, tokenizer_state, with_prefix
from rag_finetune.encoders.saving import save_network

PAIR = "title and text as a pair of sequences; no title: the text alone"
SINGLE = "title, a space and text as one sequence; no title: the text alone"


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

    @cached_property
    def prefix(self) -> str:
        """What its tokenizer puts in front of every text; empty for nothing."""
        return prefix_of(self.tokenizer)

    def settings(self) -> dict[str, Any]:
        """What fixes a vector besides weights and tokenizer; part of the fingerprint."""
        config: Any = self.model.config
        pooled = isinstance(config, PooledEncoderConfig)
        return {
            "model_type": config.model_type,
            "pooling": config.pooling if pooled else "cls",
            "normalisation": "l2" if pooled and config.normalize else None,
            "scale": config.scale if pooled else 1.0,  # that of a DPR model is in its weights
            "prefix": self.prefix,
            "template": SINGLE if pooled else PAIR,
            "max_length": self.max_length,
        }

    def fingerprint(self) -> str:
        """sha256, in hex, over weights, tokenizer and settings."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
        digest.update(json.dumps(tokenizer_state(self.tokenizer), sort_keys=True).encode())
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
        save_network(self.model, folder)
        self.tokenizer.save_pretrained(folder)

    def tokenize(self, texts: list[str], titles: list[str]) -> list[dict[str, list[int]]]:
        """Token ids of each text, joined with its title as `settings()["template"]` says.

        A prefix stands once, in front of all.
        """
        options: dict[str, Any] = {"truncation": "longest_first", "max_length": self.max_length}
        if isinstance(self.model.config, PooledEncoderConfig):
            joined = [f"{a} {b}" if a else b for a, b in zip(titles, texts, strict=True)]
            return _rows(self.tokenizer(joined, **options))
        encoded: list[dict[str, list[int]]] = [{} for _ in texts]
        for with_title in (True, False):
            rows = [row for row, title in enumerate(titles) if bool(title) is with_title]
            if not rows:
                continue
            chosen = [texts[row] for row in rows]
            if with_title:
                first = [self.prefix + titles[row] for row in rows]
                batch = self._bare_tokenizer(first, chosen, **options)
            else:
                batch = self.tokenizer(chosen, **options)
            for row, ids in zip(rows, _rows(batch), strict=True):
                encoded[row] = ids
        return encoded

    @cached_property
    def _bare_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer without its prefix, which each of a pair would get."""
        return with_prefix(self.tokenizer, "")

    def forward(self, batch: list[dict[str, list[int]]]) -> np.ndarray:
        """Vectors of one batch of token ids."""
        padded = self.tokenizer.pad(batch, return_tensors="pt").to(self.model.device)
        vectors: np.ndarray = self.model(**padded, return_dict=True)[0].float().cpu().numpy()
        return vectors


def _rows(batch: Any) -> list[dict[str, list[int]]]:
    """Token ids of a batch, text by text."""
    return [{key: batch[key][row] for key in batch} for row in range(len(batch["input_ids"]))]
