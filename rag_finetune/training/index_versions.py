"""Where a run keeps the indexes that its context encoder makes on the way."""

import json
import shutil
from pathlib import Path
from typing import Any

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.files import describe, read_text, staged_folder, write_json
from rag_finetune.index.copies import copy_index
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.rag.checkpoint import open_index_for
from rag_finetune.rag.reference import load_index_reference

VERSIONS = "index_versions"
RECORD = "index_version.json"


class IndexVersions:
    """The folder `index_versions` of a run: one index folder for each refresh that is in use.

    Attributes:
        folder: where they are.
    """

    def __init__(self, run: Path) -> None:
        """Make nothing yet; `run` is the output folder of the training."""
        self.run = run
        self.folder = run / VERSIONS

    def path(self, step: int, fingerprint: str) -> Path:
        """Where the index of an encoder goes: the same encoder's, and no other's, has the name."""
        return self.folder / f"step-{step}-{fingerprint[:12]}"

    def holds(self, index: PassageIndex) -> bool:
        """Whether an index is one of these."""
        return index.folder.parent.resolve() == self.folder.resolve()

    def prune(self, kept: PassageIndex) -> None:
        """Remove all but an index and those that a checkpoint is linked to.

        What a killed refresh left goes too.
        """
        checkpoints = [self.run, *self.run.glob("checkpoint-*")]
        named = {path / str(load_index_reference(path).get("index")) for path in checkpoints}
        in_use = {path.resolve() for path in [*named, kept.folder]}
        for path in self.folder.glob("*") if self.folder.is_dir() else ():
            if path.resolve() in in_use:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def adopt(self, checkpoint: Path, index: PassageIndex, step: int) -> None:
        """Give the index of a checkpoint a name here too: the checkpoint may be rotated away.

        Args:
            checkpoint: the folder.
            index: its index, opened.
            step: of the encoder that made it.
        """
        target = self.path(step, index.manifest.fingerprint)
        if checkpoint.resolve() in index.folder.resolve().parents and not target.is_dir():
            copy_index(index.folder, target, share=True)

    def adopted(self, index: PassageIndex, step: int) -> PassageIndex:
        """The index of a checkpoint under its name here; itself where it has none."""
        target = self.path(step, index.manifest.fingerprint)
        return open_index(target) if target.is_dir() else index


def save_snapshot(encoder: TextEncoder, target: Path) -> Path:
    """Write the context encoder as it is now beside the index that shall be made with it.

    Args:
        encoder: the context encoder.
        target: the index folder to be.

    Returns:
        The folder of the encoder, which an index calls by its last name.
    """
    folder = target.with_name(f".{target.name}.snapshot") / "context_encoder"
    with staged_folder(folder) as staged:
        encoder.save(staged)
    return folder


def record_version(checkpoint: Path, index: PassageIndex, step: int) -> None:
    """Write down in a checkpoint which index training went on with.

    Args:
        checkpoint: the folder.
        index: what was searched.
        step: of the encoder that made it; 0 for the index that the run began with.
    """
    write_json(checkpoint / RECORD, {"index_step": step, "fingerprint": index.manifest.fingerprint})


def index_of_checkpoint(checkpoint: Path) -> tuple[PassageIndex, int]:
    """The index that training went on with when a checkpoint was written, and its step.

    Raises:
        FileNotFoundError: the checkpoint was trained without its context encoder, or the index is
            gone.
        ValueError: the index is another one, or what the checkpoint says is damaged.
    """
    path = checkpoint / RECORD
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file, so the run did not train its context encoder. Go on with the "
            "--trainable that it had, or start anew: --model_name_or_path "
            f"{checkpoint} and another --output_dir."
        )
    try:
        record: Any = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}).") from error
    if not isinstance(record, dict) or not isinstance(record.get("index_step"), int):
        raise ValueError(f'{path}: expected an object with "index_step", found {describe(record)}.')
    index = open_index_for(checkpoint, None)
    expected, found = record.get("fingerprint"), index.manifest.fingerprint
    if expected != found:
        raise ValueError(
            f"{index.folder}: expected the index that training had at {checkpoint.name}, of the "
            f"encoder {expected!s:.12}, found that of {found:.12}. Go on from another checkpoint."
        )
    return index, record["index_step"]
