"""`rag-finetune train-reranker`: train a cross-encoder on gold passages and negatives."""

import argparse
import math
import warnings
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.flags import (
    add_passage_flags,
    add_question_flags,
    best_device,
    require_positive,
    training_flags,
)
from rag_finetune.cli.mine_negatives import add_search_flags, check_search_flags, load_searchers
from rag_finetune.cli.parsing import add_bool, add_dataclass_options, make_parser, parse_known
from rag_finetune.cli.train import STOPPED_BY_SIGTERM, say_nothing
from rag_finetune.files import check_file
from rag_finetune.training.resume import LATEST, check_output

if TYPE_CHECKING:
    from rag_finetune.index.gold import Passages
    from rag_finetune.index.store import PassageIndex
    from rag_finetune.training.reranker_arguments import RerankerTrainingArguments
    from rag_finetune.training.reranker_trainer import RerankerTrainer
    from rag_finetune.training.retriever_data import RetrieverExamples

LEARNT = 0.95  # of the loss of chance: above it nothing was learnt
MINED = 30  # negatives of a question to draw from, where the file has none
EPILOG = """\
The training file has gold passages and hard negatives (positive_ctxs and hard_negative_ctxs of
DPR's JSON, as `mine-negatives` writes it); or gold passages alone, and the negatives are found in
--index, or by words in --passages.
Transformers' own training flags are taken as well, such as --learning_rate, --num_train_epochs,
--per_device_train_batch_size, --eval_strategy, --bf16, --seed; --help_all lists them.
"""


def make_reranker_parser() -> argparse.ArgumentParser:
    """The flags of `train-reranker` that are not training arguments."""
    title = "Train a cross-encoder to put the gold passage first in a list."
    parser = make_parser("train-reranker", title, EPILOG)
    parser.add_argument(
        "--reranker",
        required=True,
        help="folder or Hub name: a cross-encoder, or any encoder, which gets a new classifier",
    )
    parser.add_argument("--train_file", required=True, help="questions to train on")
    parser.add_argument("--validation_file", help="questions that choose the best checkpoint")
    add_question_flags(parser)
    add_passage_flags(
        parser, index_help="index folder, to find negatives where a file has none", required=False
    )
    add_search_flags(parser)
    parser.add_argument(
        "--max_length", type=int, help="tokens of question and passage; default: up to 512"
    )
    add_bool(parser, "help_all", False, "list Transformers' training flags too")
    return parser


def make_help_parser() -> argparse.ArgumentParser:
    """The flags of `train-reranker` that --help shows: without Transformers'."""
    from rag_finetune.training.reranker_options import RerankerOptions

    parser = make_reranker_parser()
    group = parser.add_argument_group("training")
    group.add_argument("--output_dir", help="for the trained cross-encoder, checkpoints and logs")
    group.add_argument(
        "--resume_from_checkpoint",
        help=f"go on from a checkpoint folder; `{LATEST}`: the last one in --output_dir",
    )
    add_dataclass_options(group, RerankerOptions)
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    if "-h" in argv or "--help" in argv:
        make_help_parser().print_help()
        return 0
    from rag_finetune.training.reranker_arguments import RerankerTrainingArguments

    training_parser = training_flags(RerankerTrainingArguments, make_reranker_parser())
    if "--help_all" in argv:
        make_help_parser().print_help()
        print("\ntraining flags of Transformers:")
        print(training_parser.format_help().partition("options:")[2])
        return 0
    flags = [flag for flag in training_parser._option_string_actions if "-" not in flag[2:]]
    parser = make_reranker_parser()
    data, rest = parse_known(parser, argv, flags)
    for path in (data.train_file, data.validation_file):
        if path is not None:
            check_file(path)
    require_positive(data, "max_length")
    if "dense" in data.retrieval and not data.index:
        parser.error("--retrieval dense needs an --index: it holds the vectors of the passages")
    check_search_flags(parser, data)
    if data.validation_file is None:
        rest += ["--eval_strategy", "no", "--load_best_model_at_end", "false"]
    args, strays = training_parser.parse_args_into_dataclasses(
        rest, return_remaining_strings=True, look_for_args_file=False
    )
    if strays:
        training_parser.error(f'unexpected argument "{strays[0]}"')
    check_output(args)
    return _train(data, args)


def _load_source(data: argparse.Namespace, tokenizer: Any) -> "PassageIndex | Passages | None":
    """The passages that gold ones and negatives are found among; None where the files have all."""
    from rag_finetune.data.passages import load_passages
    from rag_finetune.index.gold import Passages
    from rag_finetune.index.store import open_index

    if data.passages:
        passages = load_passages(
            data.passages,
            data.passage_words,
            tokenizer=tokenizer,
            passages_format=data.passages_format,
        )
        return Passages(passages, ", ".join(data.passages))
    return open_index(data.index) if data.index else None


def _index_of(
    source: "PassageIndex | Passages", data: argparse.Namespace, folder: Path
) -> "PassageIndex":
    """An index to mine in: the one that was given, or one by words that is made when needed."""
    from rag_finetune.index.gold import Passages
    from rag_finetune.index.lexical_parts import build_word_index
    from rag_finetune.index.store import open_index

    if not isinstance(source, Passages):
        return source
    if folder.exists():
        return open_index(folder)
    return build_word_index(source.passages, folder, {kind: {} for kind in data.retrieval})


def _load_examples(
    data: argparse.Namespace,
    path: str,
    args: "RerankerTrainingArguments",
    source: "PassageIndex | Passages | None",
    folder: Path,
) -> "RetrieverExamples":
    """Questions with gold passages and negatives: those of the file, or mined ones."""
    from datasets import Dataset

    from rag_finetune.data.qa import load_questions
    from rag_finetune.index.gold import resolve_positives
    from rag_finetune.retrieval.mining import NegativeMiner
    from rag_finetune.training.reranker_data import candidates_of, with_negatives
    from rag_finetune.training.retriever_data import RetrieverExamples, load_mined

    options = {"qa_format": data.qa_format, "keep_unanswerable": data.keep_unanswerable}
    questions = load_questions(path, need_answers=False, **options)
    candidates = load_mined(path, len(questions), data.qa_format)
    if not (candidates and any(entry.negatives for entry in candidates)):
        if source is None:
            raise ValueError(
                f"{path}: has no hard_negative_ctxs. Give --passages or an --index to find "
                "negatives in, or a file that `rag-finetune mine-negatives` wrote."
            )
        index = _index_of(source, data, folder)
        searchers = load_searchers(data, index)
        miner = NegativeMiner(index, searchers, n_negatives=max(MINED, args.n_negatives))
        questions, candidates = candidates_of(questions, miner.mine(questions, progress=True))
    questions, candidates = with_negatives(questions, candidates)
    passages = Dataset.from_dict({name: [] for name in ("id", "document_id", "title", "text")})
    if source is not None:
        questions, passages = resolve_positives(questions, source), source.passages
    seed = args.data_seed if args.data_seed is not None else args.seed
    return RetrieverExamples(
        questions, passages, candidates, n_negatives=args.n_negatives, seed=seed
    )


def _make_trainer(data: argparse.Namespace, args: "RerankerTrainingArguments") -> "RerankerTrainer":
    """Load what the flags name, and join it."""
    from rag_finetune.retrieval.rerank import load_reranker
    from rag_finetune.training.reranker_trainer import RerankerTrainer

    reranker = load_reranker(data.reranker, max_length=data.max_length, new_head=True)
    source, held = _load_source(data, reranker.tokenizer), None
    with TemporaryDirectory() as folder:
        shared = (args, source, Path(folder) / "index")
        examples = _load_examples(data, data.train_file, *shared)
        if data.validation_file is not None:
            held = _load_examples(data, data.validation_file, *shared)
    reranker.model.to(best_device())
    return RerankerTrainer(reranker, args, examples, held)


def _train(data: argparse.Namespace, args: "RerankerTrainingArguments") -> int:
    """Train, and leave an ordinary folder."""
    trainer = _make_trainer(data, args)
    say: Any = print if trainer.is_world_process_zero() else say_nothing
    say(trainer.describe())
    held = 0 if trainer.eval_examples is None else len(trainer.eval_examples)
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
    if trainer.is_world_process_zero():
        _warn_of_chance(trainer)
    trainer.finish(result.metrics)
    best = trainer.state.best_metric
    found = "" if best is None else f"; best {args.metric_for_best_model} {best:.4f}"
    if found and not args.load_best_model_at_end:
        found += ", the last model is kept"
    say(f"{args.output_dir}: finished after {trainer.state.global_step} steps{found}.")
    trainer.end()
    return 0


def _warn_of_chance(trainer: "RerankerTrainer") -> None:
    """Warn where the last loss is no lower than that of a network that ranks at random."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    sizes = (min(len(found), trainer.args.n_negatives) for found in trainer.examples.negatives)
    chance = mean(math.log(1 + size) for size in sizes)
    if losses and losses[-1] > LEARNT * chance:
        warnings.warn(
            f"The loss is {losses[-1]:.3f}, and that of any order is {chance:.3f}: the "
            "cross-encoder has learnt next to nothing. Train longer, or raise --learning_rate: a "
            "new classifier on a pre-trained encoder takes 1e-4, a small network more.",
            stacklevel=2,
        )
