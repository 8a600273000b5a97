"""What training arguments of any trainer are held to: nothing that cannot work, one world."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import fields

from transformers import TrainingArguments


def refuse(args: TrainingArguments, refused: Mapping[str, str]) -> None:
    """Raise for an inherited argument that is set and cannot work.

    Args:
        args: training arguments.
        refused: the reason for each that cannot be used.

    Raises:
        ValueError: one differs from its default, or accelerate was told to split the model.
    """
    defaults = {f.name: f.default for f in fields(args) if f.name in refused}
    for name, default in defaults.items():
        value = getattr(args, name)
        if value != default and value not in (None, "", []):
            raise ValueError(f"--{name} {value} cannot be used: {refused[name]}.")
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise ValueError(
                f"accelerate was told to use {name}, which cannot be used: validation and "
                "saving need every process to hold the whole model. Leave it out: accelerate "
                "launch --multi_gpu --num_processes N -m rag_finetune train …"
            )


def can_keep_best(args: TrainingArguments) -> bool:
    """Whether every evaluation has a checkpoint to go back to; warns where some have none.

    Args:
        args: training arguments, while they are being checked.
    """
    if args.eval_strategy == "no" or args.save_strategy == "no":
        return False
    if args.save_strategy in (args.eval_strategy, "best"):
        return True
    warnings.warn(
        f"eval_strategy {args.eval_strategy} and save_strategy {args.save_strategy} differ: the "
        "last model is kept, not the best. Set both alike, or --save_strategy best.",
        stacklevel=4,
    )
    return False


def check_world(args: TrainingArguments, command: str) -> None:
    """Raise where a launcher's processes do not see each other; use one GPU of several.

    Args:
        args: training arguments.
        command: of `rag-finetune`, for the messages.

    Raises:
        ValueError: several processes were started, and this one is alone.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and args.world_size == 1:
        raise ValueError(
            f"{launched} processes were started, but this one is alone: each would train a "
            "model of its own. On a machine without GPUs: accelerate launch --multi_gpu "
            f"--num_processes 2 --mixed_precision no -m rag_finetune {command} … --use_cpu"
        )
    if args.n_gpu > 1:
        warnings.warn(
            f"{args.n_gpu} GPUs are here, one is used. For all of them: accelerate launch "
            f"--multi_gpu --num_processes {args.n_gpu} -m rag_finetune {command} …",
            stacklevel=4,
        )
        args._n_gpu = 1
