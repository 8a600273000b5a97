"""`rag-finetune train`: fine-tune question encoder and generator end to end."""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.flags import (
    CHECKPOINT,
    add_probe_flag,
    add_question_flags,
    add_retrieval_flags,
    peek,
    require_positive,
    training_flags,
)
from rag_finetune.cli.parsing import add_bool, add_dataclass_options, make_parser, parse_known
from rag_finetune.cli.task import Task
from rag_finetune.files import check_file
from rag_finetune.rag.index_choice import require_usable_index, right_encoder
from rag_finetune.training.loss_terms import LOSSES
from rag_finetune.training.resume import LATEST, check_output

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_finetune.training.arguments import RagTrainingArguments
    from rag_finetune.training.rag_trainer import RagTrainer

FEW = 20  # questions whose figures are mostly chance
STOPPED_BY_SIGTERM = 143  # what a shell reports for it
TITLE = "Fine-tune question encoder and generator end to end."
EPILOG = """\
Transformers' own training flags are taken as well, such as --learning_rate, --num_train_epochs,
--max_steps, --per_device_train_batch_size, --gradient_accumulation_steps, --eval_strategy,
--save_strategy, --logging_steps, --report_to, --bf16, --seed; --help_all lists them.

several processes:
  accelerate launch --multi_gpu --num_processes 2 -m rag_finetune {name} --config recipe.yaml
"""


def make_train_parser(name: str = "train", title: str = TITLE) -> argparse.ArgumentParser:
    """The flags of `train`, or of another command, that are not training arguments."""
    parser = make_parser(name, title, EPILOG.format(name=name))
    parser.add_argument("--model_name_or_path", required=True, help=CHECKPOINT)
    parser.add_argument(
        "--model_type",
        choices=("rag_sequence", "rag_token"),
        help="head; default: the checkpoint's own",
    )
    parser.add_argument("--index", help="index folder; default: the checkpoint's own")
    add_data_flags(parser)
    return parser


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of questions and passages that training commands share."""
    parser.add_argument("--train_file", required=True, help="questions to train on")
    parser.add_argument("--validation_file", help="questions that choose the best checkpoint")
    parser.add_argument(
        "--validation_split",
        type=float,
        default=0.1,
        help="without --validation_file: share of the training questions held out for it, by "
        "document where gold passages are known; 0 for none",
    )
    add_question_flags(parser)
    parser.add_argument(
        "--max_train_samples", type=int, help="train on the first so many questions"
    )
    parser.add_argument(
        "--max_eval_samples", type=int, help="validate on the first so many questions"
    )
    add_retrieval_flags(parser)
    add_probe_flag(parser)
    add_bool(parser, "dry_run", False, "read the flags and the questions, and stop")
    add_bool(parser, "help_all", False, "list Transformers' training flags too")


def make_help_parser() -> argparse.ArgumentParser:
    """The flags of `train` that --help shows: without Transformers', so that it is instant."""
    from rag_finetune.training.options import RagOptions

    parser = make_train_parser()
    add_training_help(parser, RagOptions)
    return parser


def add_training_help(
    parser: argparse.ArgumentParser, options: type, without: Collection[str] = ()
) -> None:
    """Add what --help shows of training arguments: those of ours, and where the run goes.

    Args:
        parser: the command's.
        options: the dataclass of those of ours.
        without: options that the command refuses.
    """
    group = parser.add_argument_group("training")
    group.add_argument(
        "--output_dir",
        help="for the checkpoint, its index and the logs; default: trainer_output",
    )
    group.add_argument(
        "--resume_from_checkpoint",
        help=f"go on from a checkpoint folder; `{LATEST}`: the last one in --output_dir",
    )
    add_dataclass_options(group, options, without)


def main(argv: list[str]) -> int:
    """Run the command."""
    return run(argv, Task(make_train_parser, make_help_parser))


def run(argv: list[str], task: Task) -> int:
    """Run a training command."""
    if "-h" in argv or "--help" in argv:
        task.help_parser().print_help()
        return 0
    if "--help_all" not in argv:
        named = peek(argv, "model_name_or_path", "index")
        if named["model_name_or_path"] is not None and "--dry_run" not in argv:
            require_usable_index(named["model_name_or_path"], named["index"])
    training_parser = training_flags(task.arguments(), task.parser())
    if "--help_all" in argv:
        parser = task.help_parser()
        parser.print_help()
        ours = {action.dest for action in parser._actions}
        for action in training_parser._actions:
            action.help = argparse.SUPPRESS if action.dest in ours else action.help
        print("\ntraining flags of Transformers:")
        print(training_parser.format_help().partition("options:")[2])
        return 0
    flags = [flag for flag in training_parser._option_string_actions if "-" not in flag[2:]]
    data, rest = parse_known(task.parser(), argv, flags)
    _check_inputs(data)
    plain, _ = training_parser.parse_known_args(rest)
    train_questions, validation_questions = _load_questions(data, plain.eval_strategy != "no")
    if validation_questions is None:
        rest += ["--eval_strategy", "no", "--load_best_model_at_end", "false"]
    args, strays = training_parser.parse_args_into_dataclasses(
        rest, return_remaining_strings=True, look_for_args_file=False
    )
    if strays:
        message = f'unexpected argument "{strays[0]}"'
        if args.retriever_loss and strays[0].partition(":")[0] in LOSSES:
            together = f"{args.retriever_loss},{strays[0]}"
            message += f". Losses are joined by commas: --retriever_loss {together}"
        training_parser.error(message)
    if args.eval_on_start and validation_questions is None:
        raise ValueError(
            "--eval_on_start needs questions: --validation_file or --validation_split."
        )
    if data.dry_run:
        print(f"{_counts(data, train_questions, validation_questions)}.")
        return 0
    check_output(args)
    try:
        return _train(task, data, args, train_questions, validation_questions)
    except ImportError as error:  # what a flag needs, such as --optim, is not installed
        raise ValueError(str(error)) from error
    except TypeError as error:
        if "schedule" not in str(error):  # a schedule that wants more than steps and warm-up
            raise
        raise ValueError(
            f"--lr_scheduler_type {args.lr_scheduler_type}: {error}. Give what is "
            "missing with --lr_scheduler_kwargs."
        ) from error


def _check_inputs(data: argparse.Namespace) -> None:
    """Raise for files and numbers that cannot work, before anything is loaded."""
    for path in (data.train_file, data.validation_file):
        if path is not None:
            check_file(path)
    require_positive(data, "max_train_samples", "max_eval_samples")
    if not 0.0 <= data.validation_split < 1.0:
        raise ValueError(
            f"--validation_split must be from 0 to below 1, found {data.validation_split}."
        )


def _load_questions(
    data: argparse.Namespace, evaluates: bool
) -> tuple["Dataset", "Dataset | None"]:
    """Questions to train on, and to validate on: given, split off, or none."""
    from rag_finetune.data.qa import load_questions, split_by_document

    options = {"qa_format": data.qa_format, "keep_unanswerable": data.keep_unanswerable}
    questions = load_questions(data.train_file, max_samples=data.max_train_samples, **options)
    if data.validation_file is not None:
        most = data.max_eval_samples
        return questions, load_questions(data.validation_file, max_samples=most, **options)
    if data.validation_split == 0.0 or not evaluates:
        return questions, None
    try:
        train, held_out = split_by_document(questions, data.validation_split)
        return train, held_out.select(range(len(held_out))[: data.max_eval_samples])
    except ValueError as error:
        raise ValueError(
            f"{data.train_file}: {error} Or give --validation_file, or --validation_split 0 for "
            "none."
        ) from error


def _train(
    task: Task,
    data: argparse.Namespace,
    args: "RagTrainingArguments",
    train_questions: "Dataset",
    validation_questions: "Dataset | None",
) -> int:
    """Load the model, train it, leave a finished folder."""
    from rag_finetune.evaluation.probe import require_better_than_chance
    from rag_finetune.rag.generation import question_encoder_of

    rag = task.load(data, args)
    try:
        trainer = task.trainer()(rag, args, train_questions, validation_questions)
    except RuntimeError as error:  # what --report_to names is not installed
        raise ValueError(str(error)) from error
    say = print if trainer.is_world_process_zero() else say_nothing
    say(trainer.describe())
    counts = _counts(data, train_questions, validation_questions)
    say(f"{counts}; {args.world_size} process(es).")
    held = 0 if validation_questions is None else len(validation_questions)
    if 0 < held < FEW and args.load_best_model_at_end:
        say(
            f"Note: {held} question(s) choose the best checkpoint, by chance as much as by merit. "
            "Give more: --validation_file or --validation_split."
        )
    say(f"Retrieval: {trainer.retriever.searcher.describe()}.")
    if data.probe and trainer.retriever.index.manifest.has_vectors:
        right = right_encoder(data.model_name_or_path)
        encoder = question_encoder_of(rag, args.max_question_length)
        require_better_than_chance(encoder, trainer.retriever.index, train_questions, right)
    trained: Any = trainer.train_dataset  # less what the trainer had to leave out
    trainer.data_names = _data_names(data, len(trained.questions), held)
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
        + _best(trainer)
        + "."
    )
    trainer.end()
    return 0


def _counts(
    data: argparse.Namespace, train_questions: "Dataset", validation_questions: "Dataset | None"
) -> str:
    """How many questions there are, in words."""
    held = 0 if validation_questions is None else len(validation_questions)
    names = ["max_train_samples", *(["max_eval_samples"] if held else [])]
    limits = ", ".join(f"--{n} {number}" for n in names if (number := getattr(data, n)))
    counts = f"{len(train_questions):,} questions to train on, {held:,} to validate on"
    return f"{counts} ({limits})" if limits else counts


def _data_names(data: argparse.Namespace, count: int, held: int) -> dict[str, str]:
    """Files of questions, for the model card, by what they are for."""
    names = {"trained on": f"{Path(data.train_file).name}, {count:,} questions"}
    if held:
        file = Path(data.validation_file or data.train_file).name
        names["validated on"] = f"{file}, {held:,} questions"
    return names


def _best(trainer: "RagTrainer") -> str:
    """The best validation figure, in words; empty without validation."""
    state, args = trainer.state, trainer.args
    if state.best_metric is None:
        return ""
    figure = f"; best {args.metric_for_best_model} in validation {state.best_metric:.4f}"
    if not args.load_best_model_at_end:
        return f"{figure}, the last model is kept"
    return f"{figure} at step {state.best_global_step}"


def say_nothing(*values: object) -> None:
    """What the other processes say."""
