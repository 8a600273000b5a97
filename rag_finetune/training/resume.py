"""Which checkpoint a training goes on from. Imports nothing heavy."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import TrainingArguments

LATEST = "latest"


def latest_checkpoint(folder: Path) -> Path:
    """The last whole checkpoint-N in a folder; trainer_state.json is what is written last.

    Raises:
        FileNotFoundError: there is none.
    """
    steps = _whole_checkpoints(folder)
    if not steps:
        raise FileNotFoundError(
            f"{folder}: no whole checkpoint to resume from. Start anew: remove the folder or "
            "choose another --output_dir, and leave out --resume_from_checkpoint."
        )
    return max(steps)[1]


def _whole_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of the checkpoints that were written to the end."""
    return [
        (int(path.parent.name.removeprefix("checkpoint-")), path.parent)
        for path in folder.glob("checkpoint-*/trainer_state.json")
        if path.parent.name.removeprefix("checkpoint-").isdigit()
    ]


def _left_aside(folder: Path) -> str:
    """Checkpoints that were not written to their end, for a sentence; "" for none."""
    whole = [path for _, path in _whole_checkpoints(folder)]
    torn = sorted(path.name for path in folder.glob("checkpoint-*/") if path not in whole)
    return f" ({', '.join(torn)}: not written to the end, left aside)" if torn else ""


def check_resumable(folder: Path) -> None:
    """Look whether training can go on from a folder as if it had never stopped.

    Raises:
        FileNotFoundError: something is missing that it needs.
    """
    if not (folder / "trainer_state.json").is_file():
        raise FileNotFoundError(
            f"{folder}: not a checkpoint to resume from, trainer_state.json is missing. Name a "
            f"whole checkpoint-N, or {LATEST}."
        )
    if not (folder / "optimizer.pt").is_file():
        raise FileNotFoundError(
            f"{folder}: not a checkpoint to resume from, optimizer.pt is missing (as in a finished "
            "model, and with --save_only_model). Start a new run from its weights: "
            f"--model_name_or_path {folder} and another --output_dir."
        )


def check_output(args: "TrainingArguments") -> None:
    """Find the checkpoint to resume from; refuse a folder that would be overwritten.

    Raises:
        FileExistsError: the folder holds something, and is not to be gone on with.
        FileNotFoundError: see `latest_checkpoint` and `check_resumable`.
    """
    folder = Path(str(args.output_dir))
    is_first = os.environ.get("RANK", "0") == "0"  # others may find what the first has written
    if args.resume_from_checkpoint == LATEST:
        args.resume_from_checkpoint = str(latest_checkpoint(folder))
    if args.resume_from_checkpoint is not None:
        check_resumable(Path(args.resume_from_checkpoint))
        if is_first:
            (folder / "train_results.json").unlink(missing_ok=True)  # it is not finished any more
            print(f"Going on from {args.resume_from_checkpoint}{_left_aside(folder)}.")
        return
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: is a file. Choose another --output_dir.")
    if is_first and folder.is_dir() and any(folder.iterdir()):
        remedy = "Choose"
        if _whole_checkpoints(folder):
            remedy = f"Go on with it: --resume_from_checkpoint {LATEST}; or choose"
        raise FileExistsError(
            f"{folder}: already exists and is not empty. {remedy} another --output_dir."
        )
