"""`rag-finetune mine-negatives`: questions with gold passages → hard negatives, as DPR's JSON."""

import argparse
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.flags import (
    CHECKPOINT,
    add_encoder_flags,
    add_question_flags,
    best_device,
    encoder_options,
    require_positive,
)
from rag_finetune.cli.parsing import add_bool, make_parser, parse
from rag_finetune.files import check_file, require_new_file
from rag_finetune.rag.index_choice import require_known_pair, require_usable_index

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_finetune.index.store import PassageIndex
    from rag_finetune.retrieval.mining import NegativeMiner
    from rag_finetune.retrieval.searchers import TextSearcher

RETRIEVALS = ("bm25", "tfidf", "dense")


def make_mine_negatives_parser() -> argparse.ArgumentParser:
    """The flags of `mine-negatives`."""
    parser = make_parser(
        "mine-negatives",
        "Find passages that rank high for a question and hold none of its answers, to train a "
        "retriever or a reranker on; written as DPR's JSON.",
    )
    parser.add_argument("--index", required=True, help="index folder")
    parser.add_argument(
        "--train_file",
        required=True,
        nargs="+",
        metavar="FILE",
        help="questions with gold passages; of several files one after another, each in its own "
        "format; an id that an earlier file has gets the number of its file before it",
    )
    add_question_flags(parser)
    parser.add_argument("--output_file", required=True, help="the JSON file to write")
    add_search_flags(parser)
    parser.add_argument("--n_negatives", type=int, default=10, help="of each question at most")
    parser.add_argument("--from_rank", type=int, default=1, help="first rank of a search")
    parser.add_argument("--to_rank", type=int, default=100, help="last rank of a search")
    parser.add_argument(
        "--margin",
        type=float,
        help="each search scores a negative so much below the gold passage or more",
    )
    parser.add_argument(
        "--max_share",
        type=float,
        help="each search scores a negative at most this share of the gold one's",
    )
    parser.add_argument(
        "--sampling",
        choices=("top", "random"),
        default="top",
        help="take the highest ranks that fit, or draw among all that do",
    )
    parser.add_argument("--seed", type=int, default=42, help="of --sampling random")
    parser.add_argument(
        "--reranker",
        help="cross-encoder that scores all candidates, folder or Hub name: a negative must score "
        "below the gold passage",
    )
    parser.add_argument(
        "--reranker_margin", type=float, default=0.0, help="… by at least so much of its logit"
    )
    add_bool(parser, "overwrite", False, "replace --output_file")
    return parser


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where negatives come from."""
    parser.add_argument(
        "--retrieval",
        nargs="+",
        choices=RETRIEVALS,
        default=["bm25"],
        help="searches whose passages may become negatives, in turns",
    )
    parser.add_argument("--question_encoder", help="for dense: folder or Hub name")
    parser.add_argument("--model_name_or_path", help=f"for dense, instead of it: {CHECKPOINT}")
    add_encoder_flags(parser)


def check_search_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Leave with code 2 where the flags do not go together.

    Raises:
        ValueError: encoder and index are known not to belong together.
    """
    dense = "dense" in args.retrieval
    if dense is not (bool(args.question_encoder) is not bool(args.model_name_or_path)):
        parser.error(
            "--question_encoder or --model_name_or_path is for --retrieval dense: give one of them "
            "there, none otherwise"
        )
    if args.question_encoder and args.index:
        require_known_pair(args.question_encoder, args.index)
    elif args.model_name_or_path:
        require_usable_index(args.model_name_or_path, args.index)


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = make_mine_negatives_parser()
    args = parse(parser, argv)
    check_search_flags(parser, args)
    require_positive(args, "n_negatives", "from_rank", "to_rank")
    for number, path in enumerate(args.train_file):
        check_file(path)
        if path in args.train_file[:number]:
            raise ValueError(f"--train_file: {path} is given twice. Give each file once.")
    output = Path(args.output_file)
    require_new_file(output, args.overwrite, args.train_file)

    from rag_finetune.files import write_json_list

    questions, file_of = _read(args)
    miner = _load(args)
    written: Counter[str] = Counter()
    sizes: list[int] = []

    def counted() -> Any:
        for row in miner.mine(questions, progress=True):
            sizes.append(len(row["hard_negative_ctxs"]))
            written[file_of[row["id"]]] += 1
            yield row

    write_json_list(output, counted())
    _report(sum(sizes), written, Counter(file_of.values()), miner)
    print(f"\nWritten: {output}.")
    return 0


def _read(args: argparse.Namespace) -> "tuple[Dataset, dict[str, str]]":
    """The questions of all files, and by the id of each the file that it is of."""
    from datasets import concatenate_datasets

    from rag_finetune.data.qa import load_questions

    options = {"qa_format": args.qa_format, "keep_unanswerable": args.keep_unanswerable}
    found = [load_questions(path, need_answers=False, **options) for path in args.train_file]
    shared = set.intersection(*(set(part.column_names) for part in found))
    parts: list[Dataset] = []
    file_of: dict[str, str] = {}
    asked: set[str] = set()
    for number, (path, part) in enumerate(zip(args.train_file, found, strict=True), start=1):
        ids = []
        for name in part["id"]:
            while name in file_of:
                name = f"{number}-{name}"
            file_of[name] = path
            ids.append(name)
        texts = set(part["question"])
        if repeated := len(texts & asked):
            warnings.warn(
                f"{path}: {repeated:,} of its questions are in an earlier file too, and would be "
                "trained on twice. Leave one of the files out, if that is not meant.",
                stacklevel=2,
            )
        asked |= texts
        columns = [name for name in part.column_names if name in shared and name != "id"]
        parts.append(part.select_columns(columns).add_column("id", ids))
    return concatenate_datasets(parts), file_of


def _load(args: argparse.Namespace) -> "NegativeMiner":
    """The miner that the flags describe."""
    from rag_finetune.index.store import open_index
    from rag_finetune.retrieval.mining import NegativeMiner
    from rag_finetune.retrieval.rerank import load_reranker

    index = open_index(args.index)
    searchers = load_searchers(args, index)
    reranker = None
    if args.reranker:
        reranker = load_reranker(args.reranker)
        reranker.model.to(best_device())
    names = "n_negatives from_rank to_rank margin max_share sampling seed reranker_margin"
    rules = {name: getattr(args, name) for name in names.split()}
    return NegativeMiner(index, searchers, reranker=reranker, **rules)


def load_searchers(args: argparse.Namespace, index: "PassageIndex") -> "dict[str, TextSearcher]":
    """The searches that the flags name."""
    of_encoder = encoder_options(args)
    return {
        name: _dense(args, index, of_encoder) if name == "dense" else index.lexical(name)
        for name in args.retrieval
    }


def _dense(
    args: argparse.Namespace, index: "PassageIndex", of_encoder: dict[str, Any]
) -> "TextSearcher":
    """A search by vectors."""
    from rag_finetune.encoders.load import load_question_encoder
    from rag_finetune.rag.checkpoint import load_rag
    from rag_finetune.rag.generation import question_encoder_of
    from rag_finetune.retrieval.searchers import DenseSearcher

    if args.question_encoder:
        encoder = load_question_encoder(args.question_encoder, **of_encoder)
    else:
        encoder = question_encoder_of(load_rag(args.model_name_or_path, index=args.index))
    encoder.model.to(best_device())
    return DenseSearcher(encoder, index)


def _report(
    n_negatives: int, written: Counter[str], given: Counter[str], miner: "NegativeMiner"
) -> None:
    """Say what was found, and what was not taken and why.

    Args:
        n_negatives: all that were written.
        written: by each file the questions that were written.
        given: by each file its questions.
        miner: what found them.
    """
    from rag_finetune.retrieval.mining import FEWER, WITHOUT_GOLD

    questions = written.total()
    print(
        f"{questions:,} questions with {n_negatives:,} negatives, "
        f"{n_negatives / max(questions, 1):.1f} each."
    )
    if questions and not n_negatives:
        warnings.warn(
            "No question has a negative, for the reasons below. --margin and --max_share hold for "
            "each search with its own scale: what suits BM25 leaves none by vectors.",
            stacklevel=2,
        )
    if few := miner.left_out[FEWER]:
        print(f"{few:>10,}  of them with fewer than {miner.n_negatives}")
    for path, count in given.items():
        if count > written[path]:
            print(f"{count - written[path]:>10,}  of {path} left out: no gold passage in the index")
    passages = {k: n for k, n in miner.left_out.items() if n and k not in (FEWER, WITHOUT_GOLD)}
    if passages:
        print("Passages that were found and not taken:")
    for reason, count in passages.items():
        print(f"{count:>10,}  {reason}")
