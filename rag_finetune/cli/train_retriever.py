"""`rag-finetune train-retriever`: train question and context encoder by contrast."""

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.flags import (
    add_passage_flags,
    add_question_flags,
    require_positive,
    training_flags,
)
from rag_finetune.cli.parsing import add_bool, add_dataclass_options, make_parser, parse_known
from rag_finetune.cli.train import STOPPED_BY_SIGTERM, say_nothing
from rag_finetune.files import check_file
from rag_finetune.training.resume import LATEST, check_output

if TYPE_CHECKING:
    from rag_finetune.encoders.text_encoder import TextEncoder
    from rag_finetune.index.gold import Passages
    from rag_finetune.index.manifest import Manifest
    from rag_finetune.index.store import PassageIndex
    from rag_finetune.training.retriever_arguments import RetrieverTrainingArguments
    from rag_finetune.training.retriever_trainer import RetrieverTrainer

EPILOG = """\
The training file names the gold passage of each question (positive_ids, found among the passages,
or positive_ctxs), and perhaps hard negatives (hard_negative_ctxs of DPR's JSON). Transformers' own
training flags are taken as well, such as --learning_rate, --num_train_epochs,
--per_device_train_batch_size, --eval_strategy, --bf16, --seed; --help_all lists them.

several processes, whose batches are each other's negatives:
  accelerate launch --multi_gpu --num_processes 2 -m rag_finetune train-retriever …
"""
ROUNDING = 1e-6  # of figures that are sums


def make_retriever_parser() -> argparse.ArgumentParser:
    """The flags of `train-retriever` that are not training arguments."""
    title = "Train question and context encoder by contrast of gold passages with all others."
    parser = make_parser("train-retriever", title, EPILOG)
    parser.add_argument("--question_encoder", required=True, help="folder or Hub name")
    parser.add_argument("--context_encoder", help="the same; default: the --question_encoder")
    add_bool(
        parser,
        "tied",
        None,
        "one network reads both; default: where --context_encoder is not given",
    )
    add_passage_flags(parser, index_help="index folder, whose passages are taken")
    parser.add_argument("--train_file", required=True, help="questions to train on")
    parser.add_argument("--validation_file", help="questions that choose the best checkpoint")
    add_question_flags(parser)
    parser.add_argument(
        "--max_question_length", type=int, default=128, help="tokens of a question; the rest is cut"
    )
    parser.add_argument(
        "--max_length", type=int, default=256, help="tokens of a passage; the rest is cut"
    )
    _add_convention(parser)
    add_bool(parser, "help_all", False, "list Transformers' training flags too")
    return parser


def _add_convention(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pooling", choices=("cls", "mean"), help="default: what is known of the encoder"
    )
    add_bool(parser, "normalize", None, "bring vectors to length 1; default: as for --pooling")
    parser.add_argument("--question_prefix", help="stands before every question; default: likewise")
    parser.add_argument("--passage_prefix", help="stands before every passage; default: likewise")


def make_help_parser() -> argparse.ArgumentParser:
    """The flags of `train-retriever` that --help shows: without Transformers'."""
    from rag_finetune.training.retriever_options import RetrieverOptions

    parser = make_retriever_parser()
    group = parser.add_argument_group("training")
    group.add_argument("--output_dir", help="for the two folders, checkpoints and logs")
    group.add_argument(
        "--resume_from_checkpoint",
        help=f"go on from a checkpoint folder; `{LATEST}`: the last one in --output_dir",
    )
    add_dataclass_options(group, RetrieverOptions)
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    if "-h" in argv or "--help" in argv:
        make_help_parser().print_help()
        return 0
    from rag_finetune.training.retriever_arguments import RetrieverTrainingArguments

    training_parser = training_flags(RetrieverTrainingArguments, make_retriever_parser())
    if "--help_all" in argv:
        make_help_parser().print_help()
        print("\ntraining flags of Transformers:")
        print(training_parser.format_help().partition("options:")[2])
        return 0
    flags = [flag for flag in training_parser._option_string_actions if "-" not in flag[2:]]
    data, rest = parse_known(make_retriever_parser(), argv, flags)
    for path in (data.train_file, data.validation_file):
        if path is not None:
            check_file(path)
    require_positive(data, "max_question_length", "max_length")
    if data.validation_file is None:
        rest += ["--eval_strategy", "no", "--load_best_model_at_end", "false"]
    args, strays = training_parser.parse_args_into_dataclasses(
        rest, return_remaining_strings=True, look_for_args_file=False
    )
    if strays:
        training_parser.error(
            f'unexpected argument "{strays[0]}". (--train_file is one file: '
            "`mine-negatives --train_file A B` makes one of several.)"
        )
    check_output(args)
    return _train(data, args)


def _load_encoders(data: argparse.Namespace) -> "tuple[TextEncoder, TextEncoder, bool]":
    """Both encoders, and whether they are one network."""
    from rag_finetune.encoders.conventions import folder_convention
    from rag_finetune.encoders.load import load_context_encoder, load_question_encoder
    from rag_finetune.encoders.network import load_config
    from rag_finetune.training.biencoder import context_of, tie

    shared: dict[str, Any] = {"pooling": data.pooling, "normalize": data.normalize}
    question = load_question_encoder(
        data.question_encoder, data.max_question_length, prefix=data.question_prefix, **shared
    )
    tied = data.context_encoder is None if data.tied is None else data.tied
    source = data.context_encoder or data.question_encoder
    if source == data.question_encoder and folder_convention(source, "passage") is None:
        # A DPR folder holds one encoder of the pair: it cannot be loaded as the other.
        if load_config(source).model_type == "dpr":
            if not tied:
                raise ValueError(
                    f"{source}: is a DPR question encoder. Give its --context_encoder, or --tied."
                )
            return question, context_of(question, data.max_length, data.passage_prefix or ""), True
    context = load_context_encoder(source, data.max_length, prefix=data.passage_prefix, **shared)
    if tied:
        tie(question, context)
    return question, context, tied


def _load_passages(
    data: argparse.Namespace, context: "TextEncoder", index: "PassageIndex | None"
) -> "Passages":
    """The passages that training and validation look for gold among."""
    from rag_finetune.data.passages import load_passages
    from rag_finetune.encoders.prefix import with_prefix
    from rag_finetune.index.corpus import COLUMNS
    from rag_finetune.index.gold import Passages

    if index is not None:
        return Passages(index.passages.select_columns([*COLUMNS]), data.index)
    tokenizer = with_prefix(context.tokenizer, "")
    found = load_passages(
        data.passages, data.passage_words, tokenizer=tokenizer, passages_format=data.passages_format
    )
    return Passages(found, ", ".join(data.passages))


def _make_trainer(
    data: argparse.Namespace, args: "RetrieverTrainingArguments", index: "PassageIndex | None"
) -> "RetrieverTrainer":
    """Load what the flags name, and join it."""
    from rag_finetune.data.qa import load_questions
    from rag_finetune.index.gold import resolve_positives
    from rag_finetune.training.retriever_data import RetrieverExamples, load_mined
    from rag_finetune.training.retriever_trainer import RetrieverTrainer

    question, context, tied = _load_encoders(data)
    source = _load_passages(data, context, index)
    options = {"qa_format": data.qa_format, "keep_unanswerable": data.keep_unanswerable}
    questions = load_questions(data.train_file, need_answers=False, **options)
    mined = load_mined(data.train_file, len(questions), data.qa_format)
    count = args.n_negatives
    if count is None:
        count = int(mined is not None and any(entry.negatives for entry in mined))
    examples = RetrieverExamples(
        resolve_positives(questions, source),
        source.passages,
        mined,
        n_negatives=count,
        seed=args.data_seed if args.data_seed is not None else args.seed,
    )
    asked = None
    if data.validation_file is not None:
        asked = load_questions(data.validation_file, need_answers=False, **options)
        asked = resolve_positives(asked, source)
    return RetrieverTrainer(
        question, context, args, examples, passages=source.passages, eval_questions=asked, tied=tied
    )


def _train(data: argparse.Namespace, args: "RetrieverTrainingArguments") -> int:
    """Train, and leave two folders, and the index where it is asked for."""
    from rag_finetune.index.lexical import require_lexical
    from rag_finetune.index.store import open_index
    from rag_finetune.index.work import require_target

    source = None if data.index is None else open_index(data.index)
    if args.save_index:
        require_target(Path(str(args.output_dir)) / "index")
        for kind, settings in source.manifest.lexical.items() if source is not None else ():
            require_lexical(kind, settings["language"])
    trainer = _make_trainer(data, args, source)
    say = print if trainer.is_world_process_zero() else say_nothing
    say(trainer.describe())
    held = 0 if trainer.eval_dataset is None else len(trainer.eval_dataset)  # type: ignore[arg-type]
    say(
        f"{len(trainer.examples):,} questions to train on, {held:,} to validate on; "
        f"{args.world_size} process(es)."
    )
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if trainer.sigterm.stopped:
        say(
            f"Stopped by SIGTERM at step {trainer.state.global_step}. Go on with "
            f"--resume_from_checkpoint {LATEST}."
        )
        return STOPPED_BY_SIGTERM
    if args.save_index and trainer.is_world_process_zero():
        trainer.save_index(source, data.passage_words)
        if source is not None:
            _say_what_is_kept(source.manifest, f"{args.output_dir}/index")
    trainer.finish(result.metrics)
    best = _best_of(trainer) if trainer.is_world_process_zero() else ""
    say(f"{args.output_dir}: finished after {trainer.state.global_step} steps{best}.")
    if args.save_index:
        say(
            "Join both with a generator: rag-finetune assemble --question_encoder "
            f"{args.output_dir}/question_encoder --index {args.output_dir}/index --generator G "
            "--output_dir D."
        )
    trainer.end()
    return 0


def _best_of(trainer: "RetrieverTrainer") -> str:
    """What the best checkpoint reached, and what was there before training."""
    best, name = trainer.state.best_metric, str(trainer.args.metric_for_best_model)
    if best is None:
        return ""
    logs = trainer.state.log_history
    key = f"eval_{name.removeprefix('eval_')}"
    start = next((entry[key] for entry in logs if key in entry and not entry["step"]), None)
    kept = "" if trainer.args.load_best_model_at_end else ", the last model is kept"
    if start is None:
        return f"; best {name} {best:.4f}{kept}"
    if best - start < ROUNDING:
        warnings.warn(
            f"{name} was {start:.4f} before training and is {best:.4f} at its best: the encoders "
            "that it began with are as good or better. Train for longer, or with another "
            "--learning_rate.",
            stacklevel=2,
        )
    return f"; best {name} {best:.4f}, {start:.4f} before training{kept}"


def _say_what_is_kept(old: "Manifest", folder: str) -> None:
    """Tell what the index of the new vectors has of the one that was given."""
    if old.lexical:
        print(f"{folder}: has {' and '.join(old.lexical)} too, as the index that was given.")
    if old.retrieval and old.has_vectors:
        print(
            f"{folder}: is searched in the way that was chosen for the old vectors; "
            "`rag-finetune tune-retrieval` chooses for the new ones."
        )
