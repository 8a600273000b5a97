"""Texts as token ids, made once and held in flat arrays, padded a batch at a time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rag_finetune.encoders.encode import length_batches

# A batch of texts in parts of like length: `parts`, what the network takes of each, and `order`,
# where in the rows of all parts each text of the batch stands.
TextBatch = dict[str, Any]


class TokenRows:
    """Token ids of many texts, four bytes each."""

    def __init__(self, rows: Iterable[Mapping[str, Sequence[int]]], pad_token_id: int) -> None:
        """Take what a `TextEncoder` makes of texts.

        Args:
            rows: `input_ids` of each text, and perhaps `token_type_ids`.
            pad_token_id: what stands where a text has ended.
        """
        rows = list(rows)
        self.pad_token_id = pad_token_id
        self.lengths = np.array([len(row["input_ids"]) for row in rows], dtype=np.int64)
        self._ends = np.concatenate([[0], np.cumsum(self.lengths)])
        self._ids = _flat(rows, "input_ids")
        has_types = any(any(row.get("token_type_ids", ())) for row in rows)
        self._types = _flat(rows, "token_type_ids") if has_types else None

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.lengths)

    def batch(self, rows: Sequence[int], most_texts: int | None = None) -> TextBatch:
        """Texts in parts of like length, each padded to its own longest.

        Args:
            rows: the texts.
            most_texts: texts a part at most; None for as many as belong together.

        Returns:
            See `TextBatch`.
        """
        lengths = [int(self.lengths[row]) for row in rows]
        parts = list(length_batches(lengths, most_texts=most_texts))
        positions = torch.tensor([position for part in parts for position in part])
        return {
            "parts": [self._padded([rows[position] for position in part]) for part in parts],
            "order": torch.argsort(positions),
        }

    def _padded(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Token ids and mask of texts, and their types where some are not 0."""
        shape = (len(rows), int(self.lengths[list(rows)].max()))
        named = {"input_ids": (self._ids, self.pad_token_id), "token_type_ids": (self._types, 0)}
        found = {"attention_mask": np.zeros(shape, dtype=np.int64)}
        for number, row in enumerate(rows):
            found["attention_mask"][number, : self.lengths[row]] = 1
        for name, (flat, filling) in named.items():
            if flat is not None:
                found[name] = np.full(shape, filling, dtype=np.int64)
                for number, row in enumerate(rows):
                    start, end = self._ends[row], self._ends[row + 1]
                    found[name][number, : end - start] = flat[start:end]
        return {name: torch.from_numpy(array) for name, array in found.items()}


def _flat(rows: Sequence[Mapping[str, Sequence[int]]], name: str) -> np.ndarray:
    """One key of all rows, one after the other."""
    return np.fromiter((token for row in rows for token in row[name]), dtype=np.int32)
