"""The vectors of an unfinished index: one file that processes fill block by block."""

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

VECTORS = "vectors.f32"
JOURNALS = "journal-*.jsonl"


@dataclass(frozen=True)
class Block:
    """The record of a finished block.

    Attributes:
        number: which one, from 0.
        checksum: crc32 of its bytes.
        n_cut: passages of it that reach the encoder's max_length.
        cut: the documents of the first few of them.
    """

    number: int
    checksum: int
    n_cut: int
    cut: list[str]


FIELDS = {field.name for field in fields(Block)}


class VectorFile:
    """A file of float32 vectors, row after row, that remembers which blocks of rows are finished.

    A block counts once its bytes are on the disk and then a line about it is, in the journal of
    the process that encoded it. Journals of work on other passages, or by another encoder, have
    another key and are passed over.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], rows_per_block: int, key: str) -> None:
        """Name the file; nothing is read or written yet.

        Args:
            folder: the work folder.
            shape: rows and dimension.
            rows_per_block: rows of every block but the last.
            key: what the vectors are made from.
        """
        self.folder, self.shape, self.rows_per_block, self.key = folder, shape, rows_per_block, key

    @property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.shape[0] // self.rows_per_block)

    def rows_of(self, number: int) -> slice:
        """The rows of a block."""
        start = number * self.rows_per_block
        return slice(start, min(start + self.rows_per_block, self.shape[0]))

    def reserve(self) -> None:
        """Make the file, of its full length; what it holds stays."""
        with open(self.folder / VECTORS, "ab"):
            os.truncate(self.folder / VECTORS, 4 * self.shape[0] * self.shape[1])

    def finished(self) -> dict[int, Block]:
        """The finished blocks by number; those whose bytes are no longer what they were are not."""
        blocks = {}
        if (self.folder / VECTORS).is_file():
            with open(self.folder / VECTORS, "rb") as file:
                for block in self._recorded():
                    rows = self.rows_of(block.number)
                    file.seek(4 * rows.start * self.shape[1])
                    data = file.read(4 * (rows.stop - rows.start) * self.shape[1])
                    if zlib.crc32(data) == block.checksum:
                        blocks[block.number] = block
        return blocks

    def write(self, number: int, vectors: np.ndarray, cut: list[str], rank: int = 0) -> None:
        """Put a block on the disk, and then on record.

        Args:
            number: which one.
            vectors: its rows, float32.
            cut: the document of each passage that reaches the encoder's max_length.
            rank: the process, for the name of its journal.

        Raises:
            OSError: the disk is full, or the like. (Stores into a mapping would end the process.)
        """
        data = np.ascontiguousarray(vectors, dtype=np.float32).tobytes()
        with open(self.folder / VECTORS, "r+b") as file:
            file.seek(4 * self.rows_of(number).start * self.shape[1])
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        block = Block(number, zlib.crc32(data), len(cut), list(dict.fromkeys(cut))[:5])
        line = json.dumps({"key": self.key, **asdict(block)})
        with open(self.folder / JOURNALS.replace("*", str(rank)), "a", encoding="utf-8") as file_:
            file_.write(f"\n{line}\n")  # the line before may be the half of one
            file_.flush()
            os.fsync(file_.fileno())

    def read(self) -> np.memmap:
        """All vectors, mapped, shape (rows, dimension) float32."""
        return np.memmap(self.folder / VECTORS, dtype=np.float32, mode="r", shape=self.shape)

    def _recorded(self) -> Iterator[Block]:
        for path in sorted(self.folder.glob(JOURNALS)):
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    record = _as_record(line)
                    if record.pop("key", None) == self.key and set(record) == FIELDS:
                        yield Block(**record)


def _as_record(line: str) -> dict[str, Any]:
    """A line of a journal; empty for one that a kill cut in two."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}
