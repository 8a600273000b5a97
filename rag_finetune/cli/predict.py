"""`rag-finetune predict`: questions → answers with evidence, as JSONL."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.flags import (
    CHECKPOINT,
    add_decoding_flags,
    add_reranker_flags,
    add_retrieval_flags,
    best_device,
    decoding_options,
    require_positive,
    with_reranker,
)
from rag_finetune.cli.parsing import add_bool, make_parser, parse
from rag_finetune.rag.index_choice import require_usable_index

if TYPE_CHECKING:
    from rag_finetune.rag.generation import Answer


def make_predict_parser() -> argparse.ArgumentParser:
    """The flags of `predict`."""
    parser = make_parser(
        "predict",
        "Answer questions; one JSON object a line goes to stdout: id, question, prediction, score,"
        " passages (and alternatives, with --num_return_sequences).",
        'example:\n  echo "who wrote it?" | rag-finetune predict --model_name_or_path D '
        "--questions -",
    )
    parser.add_argument("--model_name_or_path", required=True, help=CHECKPOINT)
    parser.add_argument("--index", help="index folder; default: the checkpoint's own")
    parser.add_argument(
        "--questions",
        required=True,
        help="a file: .json, .jsonl, .tsv or .csv as for `evaluate`, or text with one question a "
        "line; - is stdin, one question a line",
    )
    add_decoding_flags(parser)
    add_retrieval_flags(parser)
    add_reranker_flags(parser)
    parser.add_argument(
        "--num_return_sequences", type=int, default=1, help="answers a question, best first"
    )
    add_bool(
        parser,
        "do_sample",
        None,
        "draw answers instead of searching for the best; default: the model's own",
    )
    parser.add_argument("--seed", type=int, default=42, help="of the draws of --do_sample")
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(make_predict_parser(), argv)
    options = decoding_options(args)
    require_positive(args, "num_return_sequences")
    require_usable_index(args.model_name_or_path, args.index)
    questions = read_questions(args.questions)

    import torch

    from rag_finetune.rag.checkpoint import load_rag
    from rag_finetune.rag.generation import iter_answers

    torch.manual_seed(args.seed)
    rag = load_rag(
        args.model_name_or_path,
        index=args.index,
        retrieval=args.retrieval,
        lexical_prior=args.lexical_prior,
    )
    rag.model.to(best_device())
    assert rag.retriever is not None  # load_rag gives one
    rag.retriever.searcher = with_reranker(rag.retriever.searcher, args)
    if args.do_sample is not None:
        options["do_sample"] = args.do_sample
    options["num_return_sequences"] = args.num_return_sequences
    found = iter_answers(rag, [text for _, text in questions], **options)
    for (row_id, text), answers in zip(questions, found, strict=True):
        print(_as_json(row_id, text, answers), flush=True)
    return 0


def _as_json(row_id: str, question: str, answers: "list[Answer]") -> str:
    """One line of output: the best answer with its evidence, then the others."""
    best, *others = answers
    row: dict[str, Any] = {"id": row_id, "question": question, "prediction": best.text}
    row |= {"score": best.score, "passages": best.passages}
    if others:
        row["alternatives"] = [asdict(answer) for answer in others]
    return json.dumps(row, ensure_ascii=False)


def read_questions(source: str) -> list[tuple[str, str]]:
    """Read ids and questions from a file, or from stdin for "-".

    Args:
        source: a file of questions that `load_questions` reads, a text file with one question a
            line, or "-".

    Returns:
        Pairs of id and question; the id of a line of text is its row number, from 0.

    Raises:
        ValueError: there is no question, or the file is damaged.
        OSError: the file cannot be read.
    """
    if source.lower().endswith((".json", ".jsonl", ".tsv", ".csv")):
        from rag_finetune.data.qa import load_questions

        rows = load_questions(source, need_answers=False, keep_unanswerable=True)
        return list(zip(rows["id"][:], rows["question"][:], strict=True))

    from rag_finetune.files import read_text

    text = sys.stdin.read().removeprefix("\ufeff") if source == "-" else read_text(source)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise ValueError(f"{source}: expected one question a line, found none.")
    return [(str(row), line) for row, line in enumerate(lines)]
