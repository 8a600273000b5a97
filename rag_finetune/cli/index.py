"""`rag-finetune index`: passages → index folder."""

import argparse
from pathlib import Path

from rag_finetune.cli.flags import best_device, require_positive
from rag_finetune.cli.parsing import make_parser, parse


def make_index_parser() -> argparse.ArgumentParser:
    """The flags of `index`."""
    parser = make_parser("index", "Cut passages, encode them, and write an index folder.")
    parser.add_argument(
        "--passages", nargs="+", required=True, help="documents: .tsv, .csv or .jsonl"
    )
    parser.add_argument(
        "--context_encoder", required=True, help="folder or Hub name of a DPR context encoder"
    )
    parser.add_argument("--output_dir", required=True, help="the index folder to make")
    parser.add_argument(
        "--passage_words",
        type=int,
        default=100,
        help="words a passage at most; 0 keeps documents whole",
    )
    parser.add_argument(
        "--max_length", type=int, default=256, help="tokens of a passage that are encoded"
    )
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(make_index_parser(), argv)
    require_positive(args, "max_length")

    from rag_finetune.data.passages import load_passages
    from rag_finetune.encoders.load import load_context_encoder
    from rag_finetune.index.build import build_index, require_vacant

    require_vacant(Path(args.output_dir))
    passages = load_passages(args.passages, args.passage_words)
    documents = len(set(passages["document_id"]))
    print(f"{documents:,} documents, {len(passages):,} passages.")
    encoder = load_context_encoder(args.context_encoder, args.max_length)
    encoder.model.to(best_device())
    index = build_index(
        passages, encoder, args.output_dir, passage_words=args.passage_words, progress=True
    )
    manifest = index.manifest
    print(
        f"{args.output_dir}: exact index of {len(index):,} passages, dimension "
        f"{manifest.dimension}, encoder {manifest.encoder['name']} ({manifest.fingerprint:.12})."
    )
    return 0
