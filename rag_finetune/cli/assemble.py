"""`rag-finetune assemble`: question encoder + generator → RAG checkpoint."""

import argparse

from rag_finetune.cli.flags import require_positive
from rag_finetune.cli.parsing import make_parser, parse


def make_assemble_parser() -> argparse.ArgumentParser:
    """The flags of `assemble`."""
    parser = make_parser("assemble", "Join a question encoder and a generator into a checkpoint.")
    parser.add_argument(
        "--question_encoder", required=True, help="folder or Hub name of a DPR question encoder"
    )
    parser.add_argument(
        "--generator", required=True, help="folder or Hub name of a BART or T5 model"
    )
    parser.add_argument(
        "--model_type", choices=("rag_sequence", "rag_token"), default="rag_sequence", help="head"
    )
    parser.add_argument("--output_dir", required=True, help="the checkpoint folder to make")
    parser.add_argument("--index", help="index folder that it goes with; later if not given")
    parser.add_argument("--n_docs", type=int, default=5, help="passages a question")
    parser.add_argument(
        "--max_combined_length",
        type=int,
        default=300,
        help="tokens of passage and question together that the generator reads",
    )
    parser.add_argument("--num_beams", type=int, help="beams; default: the generator's own")
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(make_assemble_parser(), argv)
    require_positive(args, "n_docs", "max_combined_length", "num_beams")

    from rag_finetune.index.store import open_index
    from rag_finetune.rag.assemble import assemble_rag

    folder = assemble_rag(
        args.question_encoder,
        args.generator,
        args.output_dir,
        model_type=args.model_type,
        index=open_index(args.index) if args.index else None,
        n_docs=args.n_docs,
        max_combined_length=args.max_combined_length,
        generation={} if args.num_beams is None else {"num_beams": args.num_beams},
    )
    print(f"{folder}: {args.model_type} of {args.question_encoder} and {args.generator}.")
    return 0
