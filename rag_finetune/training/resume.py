"""Which checkpoint a training goes on from. Imports nothing heavy."""

from pathlib import Path

LATEST = "latest"


def latest_checkpoint(folder: Path) -> Path:
    """The last whole checkpoint-N in a folder; trainer_state.json is what is written last.

    Raises:
        FileNotFoundError: there is none.
    """
    steps = [
        (int(path.parent.name.removeprefix("checkpoint-")), path.parent)
        for path in folder.glob("checkpoint-*/trainer_state.json")
        if path.parent.name.removeprefix("checkpoint-").isdigit()
    ]
    if not steps:
        raise FileNotFoundError(
            f"{folder}: no whole checkpoint to resume from. Start anew: remove the folder or "
            "choose another --output_dir, and leave out --resume_from_checkpoint."
        )
    return max(steps)[1]


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
