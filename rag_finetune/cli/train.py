"""`rag-finetune train`: fine-tune question encoder and generator end to end."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rag_finetune.cli.flags import peek, require_positive, training_flags
from rag_finetune.cli.parsing import parse_known
from rag_finetune.cli.rag_training import (
    END_TO_END,
    Training,
    load_class,
    make_help_parser,
    make_train_parser,
)
from rag_finetune.files import check_file
from rag_finetune.rag.index_choice import require_usable_index, right_encoder
from rag_finetune.training.resume import LATEST, check_resumable, latest_checkpoint

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainingArguments

    from rag_finetune.training.arguments import RagTrainingArguments
    from rag_finetune.training.rag_trainer import RagTrainer

FEW = 20  # questions whose figures are mostly chance
STOPPED_BY_SIGTERM = 143  # what a shell reports for it


def main(argv: list[str], training: Training = END_TO_END) -> int:
    """Run the command."""
    if "-h" in argv or "--help" in argv:
        make_help_parser(training).print_help()
        return 0
    if "--help_all" not in argv:
        named = peek(argv, "model_name_or_path", "index")
        if named["model_name_or_path"] is not None and "--dry_run" not in argv:
            require_usable_index(named["model_name_or_path"], named["index"])
    training_parser = training_flags(load_class(training.arguments), make_train_parser(training))
    if "--help_all" in argv:
        parser = make_help_parser(training)
        parser.print_help()
        ours = {*(action.dest for action in parser._actions), *training.without}
        for action in training_parser._actions:
            action.help = argparse.SUPPRESS if action.dest in ours else action.help
        print("\ntraining flags of Transformers:")
        print(training_parser.format_help().partition("options:")[2])
        return 0
    flags = [flag for flag in training_parser._option_string_actions if "-" not in flag[2:]]
    data, rest = parse_known(make_train_parser(training), argv, flags)
    _check_inputs(data)
    plain, _ = training_parser.parse_known_args(rest)
    train_questions, validation_questions = _load_questions(data, plain.eval_strategy != "no")
    if validation_questions is None:
        rest += ["--eval_strategy", "no", "--load_best_model_at_end", "false"]
    args, strays = training_parser.parse_args_into_dataclasses(
        rest, return_remaining_strings=True, look_for_args_file=False
    )
    if strays:
        training_parser.error(f'unexpected argument "{strays[0]}"')
    if args.eval_on_start and validation_questions is None:
        raise ValueError(
            "--eval_on_start needs questions: --validation_file or --validation_split."
        )
    if data.dry_run:
        print(f"{_counts(data, train_questions, validation_questions)}.")
        return 0
    check_output(args)
    try:
        trainer = load_class(training.trainer)
        return _train(data, args, train_questions, validation_questions, trainer)
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


def check_output(args: "TrainingArguments") -> None:
    """Find the checkpoint to resume from; refuse a folder that would be overwritten."""
    folder = Path(str(args.output_dir))
    if args.resume_from_checkpoint == LATEST:
        args.resume_from_checkpoint = str(latest_checkpoint(folder))
    if args.resume_from_checkpoint is not None:
        check_resumable(Path(args.resume_from_checkpoint))
        if os.environ.get("RANK", "0") == "0":
            (folder / "train_results.json").unlink(missing_ok=True)  # it is not finished any more
        return
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: is a file. Choose another --output_dir.")
    is_first = os.environ.get("RANK", "0") == "0"  # others may find what the first has written
    if is_first and folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder}: already exists and is not empty. Go on with it: --resume_from_checkpoint "
            f"{LATEST}; or choose another --output_dir."
        )


def _train(
    data: argparse.Namespace,
    args: "RagTrainingArguments",
    train_questions: "Dataset",
    validation_questions: "Dataset | None",
    trainer_class: "type[RagTrainer]",
) -> int:
    """Load the model, train it, leave a finished folder."""
    from rag_finetune.evaluation.probe import require_better_than_chance
    from rag_finetune.rag.checkpoint import load_rag
    from rag_finetune.rag.generation import question_encoder_of

    rag = load_rag(
        data.model_name_or_path,
        index=data.index,
        model_type=data.model_type,
        retrieval=data.retrieval,
        lexical_prior=data.lexical_prior,
    )
    try:
        trainer = trainer_class(rag, args, train_questions, validation_questions)
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
    say(f"Retrieval: {trainer.retriever.searcher.retrieval.describe()}.")
    if data.probe and trainer.retriever.index.manifest.has_vectors:
        right = right_encoder(data.model_name_or_path)
        encoder = question_encoder_of(rag, args.max_question_length)
        require_better_than_chance(encoder, trainer.retriever.index, train_questions, right)
    trainer.data_names = _data_names(data, len(train_questions), held)
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
    names = [name for name in ("max_train_samples", "max_eval_samples") if getattr(data, name)]
    limits = ", ".join(f"--{name} {getattr(data, name)}" for name in names)
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
