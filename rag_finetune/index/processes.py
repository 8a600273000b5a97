"""Several processes that build one index together, started by `accelerate launch`."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState

# A process waits for the slowest, and all wait while the first one builds the FAISS index.
PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class World:
    """The processes of a job, as one of them sees it; by itself, a job of one.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are.
        device: where this process computes; None for it to choose.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process does what is done once."""
        return self.rank == 0

    def wait(self) -> None:
        """Return once every process has come here; raise where one has died."""
        if self.size > 1:
            PartialState().wait_for_everyone()

    def leave(self) -> None:
        """Part from the other processes, before this one ends."""
        if self.size > 1:
            PartialState().destroy_process_group()


def join_world() -> World:
    """Join the processes that a launcher started; alone under a plain start.

    Raises:
        ValueError: the processes do not see each other; each would build an index of its own.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return World()
    try:
        launched = int(os.environ["WORLD_SIZE"])
        state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
    except ValueError as error:
        raise ValueError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but this process cannot join others "
            f"({error}). Start them with accelerate launch, or unset WORLD_SIZE."
        ) from error
    if state.num_processes != launched:
        raise ValueError(
            f"{launched} processes were started, but this one sees {state.num_processes}. Start "
            "them with: accelerate launch --multi_gpu --num_processes 2 --mixed_precision no "
            "-m rag_finetune index …"
        )
    return World(state.process_index, state.num_processes, state.device)
