"""`rag-finetune compact`: the FAISS file of an updated index, built anew."""

import argparse

from rag_finetune.cli.index import index_summary
from rag_finetune.cli.parsing import make_parser, parse
from rag_finetune.cli.update import require_one_process

EPILOG = """Nothing is encoded. Only HNSW, and types that are refined by whole vectors (…,RFlat),
keep what is gone, and IVF the lists that it learnt; `update` says when it is time."""


def make_compact_parser() -> argparse.ArgumentParser:
    """The flags of `compact`."""
    parser = make_parser(
        "compact", "Build the FAISS file of an updated index anew, from its vectors.", EPILOG
    )
    parser.add_argument("--index", required=True, help="index folder")
    parser.add_argument(
        "--index_type",
        help="auto, flat, hnsw, sq8, ivf_pq, or a FAISS factory string; default: the one that it "
        "was built with",
    )
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(make_compact_parser(), argv)
    require_one_process("compact")

    from rag_finetune.index.update import compact_index

    index = compact_index(args.index, index_type=args.index_type, progress=True)
    print(index_summary(args.index, index.manifest))
    return 0
