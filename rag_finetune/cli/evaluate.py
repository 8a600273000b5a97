"""`rag-finetune evaluate`: a checkpoint on a question file → metrics, predictions, a table."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.flags import CHECKPOINT, add_decoding_flags, best_device, decoding_options
from rag_finetune.cli.parsing import add_bool, make_parser, parse

if TYPE_CHECKING:
    from rag_finetune.evaluation.evaluate import Evaluation


def make_evaluate_parser() -> argparse.ArgumentParser:
    """The flags of `evaluate`."""
    parser = make_parser(
        "evaluate", "Answer a file of questions; measure answers, retrieval and their ceiling."
    )
    parser.add_argument("--model_name_or_path", help=CHECKPOINT)
    parser.add_argument("--index", help="index folder; default: the checkpoint's own")
    parser.add_argument("--eval_file", required=True, help="questions: .json or .jsonl")
    parser.add_argument("--output_dir", required=True, help="for metrics.json, predictions.jsonl")
    add_decoding_flags(parser)
    add_bool(parser, "retrieval_only", False, "measure retrieval, without answering")
    parser.add_argument(
        "--question_encoder", help="with --retrieval_only: folder or Hub name, for a checkpoint"
    )
    add_bool(parser, "overwrite", False, "replace the evaluation that --output_dir holds")
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = make_evaluate_parser()
    args = parse(parser, argv)
    if args.question_encoder and not (args.retrieval_only and args.index):
        parser.error("--question_encoder goes with --retrieval_only and --index")
    if args.retrieval_only and (args.num_beams or args.max_new_tokens):
        parser.error("--num_beams and --max_new_tokens are for answers: leave them out here")
    if bool(args.model_name_or_path) is bool(args.question_encoder):
        parser.error("give --model_name_or_path, or --retrieval_only with --question_encoder")

    from rag_finetune.evaluation.report import METRICS, metrics_table, save_evaluation

    folder = Path(args.output_dir)
    if folder.is_file():
        raise FileExistsError(f"{folder}: is a file. Choose a folder for --output_dir.")
    if (folder / METRICS).exists() and not args.overwrite:
        raise FileExistsError(
            f"{folder}: holds an evaluation already. Choose another folder, or give --overwrite."
        )
    evaluation = _evaluate(args)
    save_evaluation(evaluation, folder)
    print(metrics_table(evaluation.metrics))
    print(f"\nWritten to {folder}: metrics.json, predictions.jsonl.")
    return 0


def _evaluate(args: argparse.Namespace) -> "Evaluation":
    """Load what the flags name, and evaluate."""
    from rag_finetune.data.qa import load_questions
    from rag_finetune.encoders.load import load_question_encoder
    from rag_finetune.encoders.text_encoder import TextEncoder
    from rag_finetune.evaluation.evaluate import evaluate_rag, evaluate_retrieval
    from rag_finetune.index.store import open_index
    from rag_finetune.rag.checkpoint import load_rag

    options = decoding_options(args)
    retrieval: dict[str, Any] = {"progress": True}
    if args.n_docs is not None:
        retrieval["n_docs"] = args.n_docs
    questions = load_questions(args.eval_file)
    if args.question_encoder:
        encoder = load_question_encoder(args.question_encoder, args.max_question_length)
        encoder.model.to(best_device())
        return evaluate_retrieval(encoder, open_index(args.index), questions, **retrieval)
    rag = load_rag(args.model_name_or_path, index=args.index)
    rag.model.to(best_device())
    if not args.retrieval_only:
        return evaluate_rag(rag, questions, progress=True, **options)
    assert rag.retriever is not None  # load_rag gives one
    encoder = TextEncoder(
        rag.model.question_encoder,
        rag.tokenizer.question_encoder,
        min(args.max_question_length, rag.model.config.question_encoder.max_position_embeddings),
    )
    retrieval.setdefault("n_docs", rag.retriever.n_docs)
    return evaluate_retrieval(encoder, rag.retriever.index, questions, **retrieval)
