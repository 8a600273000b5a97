"""`rag-finetune evaluate`: a checkpoint on a question file → metrics, predictions, a table."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.flags import (
    CHECKPOINT,
    add_decoding_flags,
    add_encoder_flags,
    add_probe_flag,
    add_question_flags,
    add_reranker_flags,
    add_retrieval_flags,
    best_device,
    by_words_alone,
    decoding_options,
    encoder_options,
    require_positive,
    with_reranker,
)
from rag_finetune.cli.parsing import add_bool, make_parser, parse
from rag_finetune.files import check_file, require_new_file
from rag_finetune.rag.index_choice import require_known_pair, require_usable_index, right_encoder

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_finetune.encoders.text_encoder import TextEncoder
    from rag_finetune.evaluation.evaluate import Evaluation
    from rag_finetune.index.store import PassageIndex
    from rag_finetune.retrieval.way import Retrieval


def make_evaluate_parser() -> argparse.ArgumentParser:
    """The flags of `evaluate`."""
    parser = make_parser(
        "evaluate", "Answer a file of questions; measure answers, retrieval and their ceiling."
    )
    parser.add_argument("--model_name_or_path", help=CHECKPOINT)
    parser.add_argument("--index", help="index folder; default: the checkpoint's own")
    parser.add_argument("--eval_file", required=True, help="questions to evaluate on")
    add_question_flags(parser)
    parser.add_argument(
        "--max_eval_samples", type=int, help="evaluate on the first so many questions"
    )
    parser.add_argument("--output_dir", required=True, help="for metrics.json, predictions.jsonl")
    add_decoding_flags(parser)
    add_bool(parser, "retrieval_only", False, "measure retrieval, without answering")
    parser.add_argument(
        "--question_encoder", help="with --retrieval_only: folder or Hub name, for a checkpoint"
    )
    add_encoder_flags(parser)
    parser.add_argument(
        "--run_file",
        metavar="FILE",
        help="with --retrieval_only: write the passages found as a TREC run, max(20, n_docs) deep",
    )
    parser.add_argument(
        "--from_run",
        metavar="FILE",
        help="with --retrieval_only: measure this TREC run instead of searching; with --index, of "
        "the same passages, also by the answers in their texts",
    )
    add_retrieval_flags(parser)
    add_reranker_flags(parser)
    add_probe_flag(parser)
    add_bool(
        parser, "overwrite", False, "replace the evaluation that --output_dir holds, and --run_file"
    )
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = make_evaluate_parser()
    args = parse(parser, argv)
    _check_flags(parser, args)
    require_positive(args, "max_eval_samples")
    if args.from_run:
        check_file(args.from_run)
    elif args.question_encoder:
        require_known_pair(args.question_encoder, args.index)
    elif args.model_name_or_path:
        require_usable_index(args.model_name_or_path, args.index)

    from rag_finetune.data.trec import write_run
    from rag_finetune.evaluation.report import METRICS, metrics_table, save_evaluation

    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: is a file. Choose a folder for --output_dir.")
    if args.run_file:
        require_new_file(Path(args.run_file), args.overwrite, [args.eval_file])
    if (folder / METRICS).exists() and not args.overwrite:
        raise FileExistsError(
            f"{folder}: holds an evaluation already. Choose another folder, or give --overwrite."
        )
    with _made(folder):
        evaluation = _evaluate(args)
        save_evaluation(evaluation, folder)
        if args.run_file:
            write_run(args.run_file, _found(evaluation))
    print(metrics_table(evaluation.metrics))
    print(f"\nWritten to {folder}: metrics.json, predictions.jsonl.")
    if args.run_file:
        print(f"Written: {args.run_file}.")
    return 0


def _check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Leave with code 2 where flags do not go together."""
    if (args.run_file or args.from_run) and not args.retrieval_only:
        parser.error("--run_file and --from_run go with --retrieval_only")
    if args.from_run:
        if args.model_name_or_path or args.question_encoder or args.run_file:
            parser.error("--from_run does not search: leave out encoder, checkpoint and --run_file")
        if args.n_docs or args.reranker:
            parser.error(
                "--n_docs and --reranker are for searching: --from_run measures all that it holds"
            )
        return
    if args.question_encoder and not (args.retrieval_only and args.index):
        parser.error("--question_encoder goes with --retrieval_only and --index")
    if args.retrieval_only and (args.num_beams or args.max_new_tokens):
        parser.error("--num_beams and --max_new_tokens are for answers: leave them out here")
    named = [name for name in (args.model_name_or_path, args.question_encoder) if name]
    needs_none = not named and args.retrieval_only and by_words_alone(args)
    if len(named) != 1 and not needs_none:
        parser.error(
            "give --model_name_or_path, or --retrieval_only with --question_encoder, or by words "
            "with --index and --retrieval bm25 or tfidf"
        )


def _found(evaluation: "Evaluation") -> dict[str, list[tuple[str, float]]]:
    """What was found for each question, as a run file has it."""
    return {
        row["id"]: [(passage["id"], passage["score"]) for passage in row["passages"]]
        for row in evaluation.predictions
    }


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder now, so that one that cannot be written costs no evaluation; undo a failure."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder}: cannot be written to. Choose another --output_dir.")
    try:
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # something has been put there
                path.rmdir()
        raise


def _evaluate(args: argparse.Namespace) -> "Evaluation":
    """Load what the flags name, and evaluate."""
    from rag_finetune.data.trec import check_ids
    from rag_finetune.evaluation.evaluate import evaluate_rag
    from rag_finetune.evaluation.retrieval_only import evaluate_retrieval
    from rag_finetune.retrieval.search import Searcher

    if args.from_run:
        return _evaluate_run(args)
    options, of_encoder = decoding_options(args), encoder_options(args)
    questions = _load_questions(args)
    if args.run_file:
        check_ids(questions["id"])
    if not args.model_name_or_path:
        encoder, index, way = _load_parts(args, of_encoder)
        n_docs = {} if args.n_docs is None else {"n_docs": args.n_docs}
        if encoder is not None and way.by_vectors:
            _probe(args, encoder, index, questions)
        searcher = with_reranker(Searcher(index, way), args)
        print(f"Retrieval: {searcher.describe()}.")
        return evaluate_retrieval(
            encoder, index, questions, progress=True, searcher=searcher, **n_docs
        )
    from rag_finetune.rag.checkpoint import load_rag
    from rag_finetune.rag.generation import question_encoder_of

    rag = load_rag(
        args.model_name_or_path,
        index=args.index,
        retrieval=args.retrieval,
        lexical_prior=args.lexical_prior,
    )
    rag.model.to(best_device())
    assert rag.retriever is not None  # load_rag gives one
    encoder, index = question_encoder_of(rag, args.max_question_length), rag.retriever.index
    if index.manifest.has_vectors:
        _probe(args, encoder, index, questions)
    rag.retriever.searcher = with_reranker(rag.retriever.searcher, args)
    print(f"Retrieval: {rag.retriever.searcher.describe()}.")
    if not args.retrieval_only:
        return evaluate_rag(rag, questions, progress=True, **options)
    return evaluate_retrieval(
        encoder,
        index,
        questions,
        n_docs=args.n_docs or rag.retriever.n_docs,
        progress=True,
        searcher=rag.retriever.searcher,
    )


def _load_parts(
    args: argparse.Namespace, of_encoder: dict[str, Any]
) -> tuple["TextEncoder | None", "PassageIndex", "Retrieval"]:
    """An encoder, if one is named, an index, and the way to search it."""
    from rag_finetune.encoders.load import load_question_encoder
    from rag_finetune.index.store import open_index
    from rag_finetune.retrieval.way import choose_retrieval

    index = open_index(args.index)
    way = choose_retrieval(index, args.retrieval, args.lexical_prior)
    if not args.question_encoder:
        return None, index, way
    encoder = load_question_encoder(args.question_encoder, args.max_question_length, **of_encoder)
    encoder.model.to(best_device())
    return encoder, index, way


def _probe(
    args: argparse.Namespace, encoder: "TextEncoder", index: "PassageIndex", questions: "Dataset"
) -> None:
    """Stop where the vectors are not those of the encoder, unless that was switched off."""
    from rag_finetune.evaluation.probe import require_better_than_chance

    if args.probe:
        right = right_encoder(args.question_encoder or args.model_name_or_path)
        require_better_than_chance(encoder, index, questions, right)


def _evaluate_run(args: argparse.Namespace) -> "Evaluation":
    """Measure the run that the flags name."""
    from rag_finetune.data.trec import load_run
    from rag_finetune.evaluation.run_file import evaluate_run
    from rag_finetune.index.store import open_index

    encoder_options(args)  # refused: there is no encoder
    questions = _load_questions(args)
    index = open_index(args.index) if args.index else None
    return evaluate_run(load_run(args.from_run), questions, index)


def _load_questions(args: argparse.Namespace) -> "Dataset":
    """The questions to evaluate on, and on the console how many where not all of them."""
    from rag_finetune.data.qa import load_questions

    questions = load_questions(
        args.eval_file,
        need_answers=not args.retrieval_only,
        qa_format=args.qa_format,
        keep_unanswerable=args.keep_unanswerable,
        max_samples=args.max_eval_samples,
    )
    if args.max_eval_samples is not None:
        print(f"The first {len(questions):,} questions of {args.eval_file} (--max_eval_samples).")
    return questions
