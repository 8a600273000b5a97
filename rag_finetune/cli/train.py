"""`rag-finetune train`: fine-tune question encoder and generator end to end."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.flags import CHECKPOINT
from rag_finetune.cli.parsing import add_bool, add_dataclass_options, make_parser, parse_known
from rag_finetune.files import check_file

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_finetune.training.arguments import RagTrainingArguments

LATEST = "latest"
STOPPED_BY_SIGTERM = 143  # what a shell reports for it
EPILOG = """\
Transformers' own training flags are taken as well, such as --learning_rate, --num_train_epochs,
--max_steps, --per_device_train_batch_size, --gradient_accumulation_steps, --eval_strategy,
--save_strategy, --logging_steps, --report_to, --bf16, --seed; --help_all lists them.

several processes:
  accelerate launch --num_processes 2 -m rag_finetune train --config recipe.yaml
"""


def make_train_parser() -> argparse.ArgumentParser:
    """The flags of `train` that are not training arguments."""
    parser = make_parser("train", "Fine-tune question encoder and generator end to end.", EPILOG)
    parser.add_argument("--model_name_or_path", required=True, help=CHECKPOINT)
    parser.add_argument(
        "--model_type",
        choices=("rag_sequence", "rag_token"),
        help="head; default: the checkpoint's own",
    )
    parser.add_argument("--index", help="index folder; default: the checkpoint's own")
    parser.add_argument("--train_file", required=True, help="questions: .json or .jsonl")
    parser.add_argument("--validation_file", help="questions that choose the best checkpoint")
    parser.add_argument(
        "--validation_split",
        type=float,
        default=0.1,
        help="without --validation_file: share of the training questions held out for it, by "
        "document where gold passages are known; 0 for none",
    )
    add_bool(parser, "help_all", False, "list Transformers' training flags too")
    return parser


def make_help_parser() -> argparse.ArgumentParser:
    """The flags of `train` that --help shows: without Transformers', so that it is instant."""
    from rag_finetune.training.options import RagOptions

    parser = make_train_parser()
    group = parser.add_argument_group("training")
    group.add_argument("--output_dir", help="for the checkpoint, its index and the logs")
    group.add_argument(
        "--resume_from_checkpoint",
        help=f"go on from a checkpoint folder; `{LATEST}`: the last one in --output_dir",
    )
    add_dataclass_options(group, RagOptions)
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    if "-h" in argv or "--help" in argv:
        make_help_parser().print_help()
        return 0
    from transformers import HfArgumentParser

    from rag_finetune.training.arguments import RagTrainingArguments

    training_parser: Any = HfArgumentParser(RagTrainingArguments, allow_abbrev=False)  # type: ignore[arg-type]
    if "--help_all" in argv:
        make_help_parser().print_help()
        training_parser.print_help()
        return 0
    flags = list(training_parser._option_string_actions)
    data, rest = parse_known(make_train_parser(), argv, flags)
    _check_inputs(data)
    train_questions, validation_questions = _load_questions(data)
    if validation_questions is None:
        rest += ["--eval_strategy", "no", "--load_best_model_at_end", "false"]
    (args,) = training_parser.parse_args_into_dataclasses(rest)
    _check_output(args)
    return _train(data, args, train_questions, validation_questions)


def _check_inputs(data: argparse.Namespace) -> None:
    """Raise for files and numbers that cannot work, before anything is loaded."""
    for path in (data.train_file, data.validation_file):
        if path is not None:
            check_file(path)
    if not 0.0 <= data.validation_split < 1.0:
        raise ValueError(
            f"--validation_split must be from 0 to below 1, found {data.validation_split}."
        )


def _load_questions(data: argparse.Namespace) -> tuple["Dataset", "Dataset | None"]:
    """Questions to train on, and to validate on: given, split off, or none."""
    from rag_finetune.data.qa import load_questions, split_by_document

    questions = load_questions(data.train_file)
    if data.validation_file is not None:
        return questions, load_questions(data.validation_file)
    if data.validation_split == 0.0:
        return questions, None
    return split_by_document(questions, data.validation_split)


def _check_output(args: "RagTrainingArguments") -> None:
    """Find the checkpoint to resume from; refuse a folder that would be overwritten."""
    folder = Path(str(args.output_dir))
    if args.resume_from_checkpoint == LATEST:
        args.resume_from_checkpoint = str(latest_checkpoint(folder))
    if args.resume_from_checkpoint is not None:
        if not (Path(args.resume_from_checkpoint) / "trainer_state.json").is_file():
            raise FileNotFoundError(
                f"{args.resume_from_checkpoint}: not a checkpoint to resume from, "
                "trainer_state.json is missing."
            )
        return
    is_first = os.environ.get("RANK", "0") == "0"  # others may find what the first has written
    if is_first and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder}: already exists and is not empty. Go on with it: --resume_from_checkpoint "
            f"{LATEST}; or choose another --output_dir."
        )


def latest_checkpoint(folder: Path) -> Path:
    """The last whole checkpoint-N in a folder.

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
            f"{folder}: no checkpoint to resume from. Leave out --resume_from_checkpoint."
        )
    return max(steps)[1]


def _train(
    data: argparse.Namespace,
    args: "RagTrainingArguments",
    train_questions: "Dataset",
    validation_questions: "Dataset | None",
) -> int:
    """Load the model, train it, leave a finished folder."""
    from rag_finetune.rag.checkpoint import load_rag
    from rag_finetune.training.rag_trainer import RagTrainer

    rag = load_rag(data.model_name_or_path, index=data.index, model_type=data.model_type)
    trainer = RagTrainer(rag, args, train_questions, validation_questions)
    say = print if trainer.is_world_process_zero() else _say_nothing
    say(trainer.describe())
    held = 0 if validation_questions is None else len(validation_questions)
    say(
        f"{len(train_questions):,} questions to train on, {held:,} to validate on; "
        f"{args.world_size} process(es)."
    )
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if trainer.sigterm.stopped:
        say(
            f"Stopped by SIGTERM at step {trainer.state.global_step}. Go on with "
            f"--resume_from_checkpoint {LATEST}."
        )
        return STOPPED_BY_SIGTERM
    trainer.finish(result.metrics)
    say(
        f"{args.output_dir}: finished after {trainer.state.global_step} steps"
        + _best(trainer.state)
        + "."
    )
    trainer.end()
    return 0


def _best(state: Any) -> str:
    """The best validation figure, in words; empty without validation."""
    if state.best_metric is None:
        return ""
    return f"; best validation figure {state.best_metric:.4f} at step {state.best_global_step}"


def _say_nothing(*values: object) -> None:
    """What the other processes say."""
