"""`rag-finetune tune-retrieval`: choose on a file of questions how an index is searched."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rag_finetune.cli.flags import (
    CHECKPOINT,
    add_encoder_flags,
    add_question_flags,
    best_device,
    encoder_options,
    require_positive,
)
from rag_finetune.cli.parsing import make_parser, parse
from rag_finetune.files import check_file
from rag_finetune.rag.index_choice import require_known_pair, require_usable_index

if TYPE_CHECKING:
    from rag_finetune.encoders.text_encoder import TextEncoder
    from rag_finetune.index.store import PassageIndex
    from rag_finetune.retrieval.way import Retrieval

METRICS = ("recall@1", "recall@5", "recall@10", "recall@20", "mrr@10")
EPILOG = """\
The best way is written into the index (manifest.json), whose own way it is from then on. A trained
checkpoint remembers the way that it was trained with, which wins over its index: named with
--model_name_or_path, it is changed along with its index, be that inside it or elsewhere.
Tune on questions that neither encoder nor evaluation has seen.
"""


def make_tune_retrieval_parser() -> argparse.ArgumentParser:
    """The flags of `tune-retrieval`."""
    parser = make_parser(
        "tune-retrieval",
        "Try vectors, words, and both at many weights; print a table and keep the best.",
        EPILOG,
    )
    parser.add_argument("--index", help="index folder; default: the checkpoint's own")
    parser.add_argument("--questions", required=True, metavar="FILE", help="questions to try")
    encoder = parser.add_mutually_exclusive_group()
    encoder.add_argument("--question_encoder", help="folder or Hub name of a question encoder")
    encoder.add_argument("--model_name_or_path", help=CHECKPOINT)
    add_question_flags(parser)
    add_encoder_flags(parser)
    parser.add_argument("--max_samples", type=int, help="try the first so many questions")
    parser.add_argument(
        "--metric",
        choices=METRICS,
        default="mrr@10",
        help="what chooses: of gold passages, or of passages with an answer where no gold is known",
    )
    parser.add_argument("--plot", metavar="FILE.png", help="draw the figures, too")
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = make_tune_retrieval_parser()
    args = parse(parser, argv)
    if not (args.index or args.model_name_or_path):
        parser.error("give --index, or --model_name_or_path of a checkpoint with an index")
    if args.plot:
        picture = Path(args.plot)
        if picture.suffix.lower() != ".png" or picture.is_dir():
            parser.error(f"--plot: expected the name of a file, NAME.png, found {args.plot}")
        if not picture.parent.is_dir():
            parser.error(f"--plot {args.plot}: there is no folder {picture.parent}")
    require_positive(args, "max_samples")
    check_file(args.questions)
    if args.model_name_or_path:
        require_usable_index(args.model_name_or_path, args.index)
    elif args.question_encoder:
        require_known_pair(args.question_encoder, args.index)

    from rag_finetune.data.qa import load_questions
    from rag_finetune.evaluation.tune import best_trial, tune_retrieval, write_choice
    from rag_finetune.evaluation.tune_report import plot_tuning, require_plot, tuning_table

    if args.plot:
        require_plot()
    questions = load_questions(
        args.questions,
        need_answers=False,
        qa_format=args.qa_format,
        keep_unanswerable=args.keep_unanswerable,
        max_samples=args.max_samples,
    )
    encoder, index = _load(args)
    trials = list(tune_retrieval(encoder, index, questions, kinds=_kinds(args, index)))
    best = best_trial(trials, args.metric)
    print(tuning_table(trials, best))
    if args.plot:
        plot_tuning(trials, best, args.metric, Path(args.plot))
        print(f"\nPicture: {args.plot}")
    chosen = write_choice(index, best)
    places = [str(index.folder / "manifest.json")]
    named = args.model_name_or_path
    if named and _has_another_index(named, index):
        beside = f"--index {index.folder} --retrieval {chosen.way}"
        print(f"\n{named} goes on with an index of its own, or takes {beside}.")
    else:
        places += _remember(args, chosen)
    print(f"\n{chosen.describe()}: written to {' and '.join(places)}.")
    return 0


def _load(args: argparse.Namespace) -> tuple["TextEncoder | None", "PassageIndex"]:
    """The question encoder, if one is named, and the index."""
    from rag_finetune.encoders.load import load_question_encoder
    from rag_finetune.index.store import open_index
    from rag_finetune.rag.checkpoint import load_rag, open_index_for
    from rag_finetune.rag.generation import question_encoder_of

    options = encoder_options(args)
    encoder: TextEncoder | None = None
    if args.model_name_or_path:
        # Without its retriever: the way that it remembers may be what shall be replaced.
        rag = load_rag(args.model_name_or_path, with_index=False)
        encoder = question_encoder_of(rag)
        index = open_index_for(Path(args.model_name_or_path), args.index)
    else:
        index = open_index(args.index)
    if args.question_encoder:
        encoder = load_question_encoder(args.question_encoder, **options)
    if encoder is not None:
        encoder.model.to(best_device())
    return encoder, index


def _kinds(args: argparse.Namespace, index: "PassageIndex") -> tuple[str, ...]:
    """The indexes by words to try: all, or that of a prior, whose scale is of its scores."""
    from rag_finetune.rag.index_choice import own_retrieval
    from rag_finetune.retrieval.way import LEXICAL, retrieval_of

    named, place = args.model_name_or_path, args.model_name_or_path or str(index.folder)
    data = own_retrieval(named).get("retrieval") if named else None
    data = data or index.manifest.retrieval
    if data and (now := retrieval_of(data, place)).prior:
        return (now.kind,)
    return LEXICAL


def _has_another_index(model: str, index: "PassageIndex") -> bool:
    """Whether a checkpoint comes with an index that is not this one, and may be unable to do so."""
    from rag_finetune.rag.index_choice import own_index

    own = own_index(model)
    return own is not None and own.is_dir() and own.resolve() != index.folder.resolve()


def _remember(args: argparse.Namespace, chosen: "Retrieval") -> list[str]:
    """Change what the named checkpoint remembers; where that was written."""
    from rag_finetune.rag.reference import INDEX_REFERENCE, remember_retrieval

    folder = args.model_name_or_path and Path(args.model_name_or_path)
    if folder and remember_retrieval(folder, chosen):
        return [str(folder / INDEX_REFERENCE)]
    return []
