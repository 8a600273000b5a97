"""What an index is made from; work that was made from anything else is not used for it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rag_finetune.files import write_json

FILE_NAME = "plan.json"


@dataclass(frozen=True)
class Plan:
    """The inputs of an index that is being built, and what is left to encode.

    Attributes:
        passages: sha256 of the cut passages.
        encoder: fingerprint of the context encoder.
        dtype: what it computes in.
        batching: passages a block, and what bounds a batch, which depends on the kind of device:
            other batches give other last bits.
        n_passages: number of passages.
        n_documents: number of documents that they were cut from.
        dimension: length of a vector.
        todo: the blocks that are not encoded yet, set once for all processes.
    """

    passages: str
    encoder: str
    dtype: str
    batching: list[int]
    n_passages: int
    n_documents: int
    dimension: int
    todo: list[int]

    @property
    def key(self) -> str:
        """sha256, in hex, over all that fixes a vector."""
        return hashlib.sha256(json.dumps(self._sources()).encode()).hexdigest()

    def difference(self, other: "Plan") -> str:
        """Which of the inputs differ from those of another plan; empty where none does."""
        theirs = other._sources()
        names = [name for name, value in self._sources().items() if theirs[name] != value]
        return ", ".join(names)

    def save(self, folder: Path) -> None:
        """Write the plan into a work folder."""
        write_json(folder / FILE_NAME, asdict(self))

    def _sources(self) -> dict[str, object]:
        names = ("passages", "encoder", "dtype", "batching")
        return {name: getattr(self, name) for name in names}


def load_plan(folder: Path) -> Plan | None:
    """The plan of a work folder; None where there is none, or one of another version of ours."""
    try:
        return Plan(**json.loads((folder / FILE_NAME).read_text(encoding="utf-8")))
    except (FileNotFoundError, TypeError, ValueError):
        return None
