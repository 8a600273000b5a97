"""What evaluations were made from, by place and content. Imports nothing heavy."""

import hashlib
from pathlib import Path

from rag_finetune.data.qa_tables import is_qrels
from rag_finetune.index.manifest import FILE_NAME

# Of a checkpoint, what its answers depend on; not its card, its history or its optimizer.
CHECKPOINT = (
    "config.json generation_config.json model*.safetensors* pytorch_model*.bin* *_tokenizer/* "
    "rag_finetune.json question_encoder/* generator/*"
).split()
# state.json holds datasets' fingerprint of the passages, which no two builds share. The passages
# themselves, with their vectors, may be too large to be read for this.
INDEX = (FILE_NAME, "passages/state.json")


def identify_questions(path: str | Path) -> dict[str, str]:
    """Where a file of questions is and what it holds, the file that goes with it included.

    Args:
        path: an existing file, in any format that `load_questions` reads.

    Returns:
        path, links followed, and sha256 in hex.
    """
    path, files = Path(path), [Path(path)]
    suffix = path.suffix.lower()
    if suffix == ".source":
        files.append(path.with_suffix(".target"))
    elif suffix == ".tsv" and is_qrels(path):
        files.append(path.parent.parent / "queries.jsonl")
    return _identify(path, files)


def identify_checkpoint(name: str) -> dict[str, str]:
    """Where a checkpoint is and its content, without its index; of a Hub name the name alone.

    Args:
        name: a folder or a Hub name.

    Returns:
        path, links followed, and sha256 in hex; or name.
    """
    return _identify_folder(name, CHECKPOINT)


def identify_index(name: str | Path) -> dict[str, str]:
    """Where an index is and which build it is.

    Args:
        name: an index folder.

    Returns:
        path, links followed, and sha256 in hex; or name, where there is no such folder.
    """
    return _identify_folder(name, INDEX)


def _identify_folder(name: str | Path, patterns: tuple[str, ...] | list[str]) -> dict[str, str]:
    folder = Path(name)
    if not folder.is_dir():
        return {"name": str(name)}
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return _identify(folder, sorted(files))


def _identify(path: Path, files: list[Path]) -> dict[str, str]:
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{file.name}\n".encode())
            with open(file, "rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return {"path": str(path.resolve()), "sha256": digest.hexdigest()}
