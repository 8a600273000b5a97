"""`rag-finetune search`: look into an index."""

import argparse
import shutil
import sys
from typing import TYPE_CHECKING

from rag_finetune.cli.flags import (
    CHECKPOINT,
    add_encoder_flags,
    add_reranker_flags,
    add_retrieval_flags,
    best_device,
    by_words_alone,
    encoder_options,
    require_positive,
    with_reranker,
)
from rag_finetune.cli.parsing import make_parser, parse
from rag_finetune.rag.index_choice import require_known_pair, require_usable_index

if TYPE_CHECKING:
    from rag_finetune.encoders.text_encoder import TextEncoder
    from rag_finetune.retrieval.reranked import RerankedSearcher
    from rag_finetune.retrieval.search import Searcher


def make_search_parser() -> argparse.ArgumentParser:
    """The flags of `search`."""
    parser = make_parser("search", "Show the passages that an index finds for a question.")
    parser.add_argument("question", nargs="+", help="one or more questions, each in quotes")
    parser.add_argument("--index", help="index folder; default: the checkpoint's own")
    encoder = parser.add_mutually_exclusive_group()
    encoder.add_argument("--question_encoder", help="folder or Hub name of a question encoder")
    encoder.add_argument("--model_name_or_path", help=CHECKPOINT)
    add_encoder_flags(parser)
    add_retrieval_flags(parser, prior=False)
    add_reranker_flags(parser)
    parser.add_argument("--n_docs", "--k", type=int, default=5, help="passages to show")
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = make_search_parser()
    args = parse(parser, argv)
    require_positive(args, "n_docs")
    if args.question_encoder and not args.index:
        parser.error("--question_encoder needs --index")
    if not (args.question_encoder or args.model_name_or_path):
        if not by_words_alone(args):
            parser.error(
                "one of the arguments --question_encoder --model_name_or_path is required (neither "
                "with --index and --retrieval bm25 or tfidf)"
            )
    elif args.question_encoder:
        require_known_pair(args.question_encoder, args.index)
    else:
        require_usable_index(args.model_name_or_path, args.index)
    encoder, searcher = _load(args)
    searcher = with_reranker(searcher, args)
    index, vectors = searcher.index, None
    if encoder is not None and searcher.retrieval.by_vectors:
        encoder.model.to(best_device())
        vectors = encoder.encode(args.question)
    k = min(args.n_docs, len(index))
    print(f"Retrieval: {searcher.describe()}.", file=sys.stderr)
    scores, rows = searcher.search(vectors, args.question, k)
    found = index.passages_at(rows)
    for number, question in enumerate(args.question):
        pairs = zip(found[number * k : (number + 1) * k], scores[number].tolist(), strict=True)
        # An approximate index, or a search by words, may find fewer than k.
        kept = [(passage, score) for passage, score in pairs if passage["id"]]
        print(f"{question}\n")
        print(results_table(*map(list, zip(*kept, strict=True))) if kept else "no passage found")
        print()
    return 0


def results_table(passages: list[dict[str, str]], scores: list[float]) -> str:
    """Passages as a table: rank, score, id, title, and as much text as the terminal is wide."""
    id_width = max(len("id"), *(len(p["id"]) for p in passages))
    title_width = min(30, max(len("title"), *(len(p["title"]) for p in passages)))
    text_width = max(20, shutil.get_terminal_size().columns - id_width - title_width - 24)
    lines = [f"{'rank':>4}  {'score':>10}  {'id':<{id_width}}  {'title':<{title_width}}  text"]
    for rank, (passage, score) in enumerate(zip(passages, scores, strict=True), start=1):
        title = _shorten(passage["title"], title_width)
        text = _shorten(passage["text"], text_width)
        names = f"{passage['id']:<{id_width}}  {title:<{title_width}}"
        lines.append(f"{rank:>4}  {score:>10.4f}  {names}  {text}")
    return "\n".join(lines)


def _shorten(text: str, width: int) -> str:
    """A text on one line, cut to `width` characters anywhere: not all scripts have spaces."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _load(args: argparse.Namespace) -> tuple["TextEncoder | None", "Searcher | RerankedSearcher"]:
    """The question encoder and the index that the flags name, and the way to search it."""
    from rag_finetune.encoders.load import load_question_encoder
    from rag_finetune.index.store import open_index
    from rag_finetune.rag.checkpoint import load_rag
    from rag_finetune.rag.generation import question_encoder_of
    from rag_finetune.retrieval.search import Searcher
    from rag_finetune.retrieval.way import choose_retrieval

    of_encoder = encoder_options(args)
    if args.model_name_or_path:
        rag = load_rag(args.model_name_or_path, index=args.index, retrieval=args.retrieval)
        assert rag.retriever is not None  # load_rag gives one
        return question_encoder_of(rag), rag.retriever.searcher
    index = open_index(args.index)
    searcher = Searcher(index, choose_retrieval(index, args.retrieval))
    if not args.question_encoder:
        return None, searcher
    encoder = load_question_encoder(args.question_encoder, **of_encoder)
    index.check_encoder(encoder.dimension, encoder.settings())
    return encoder, searcher
