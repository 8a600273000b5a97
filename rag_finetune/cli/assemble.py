"""`rag-finetune assemble`: question encoder + generator → RAG checkpoint."""

import argparse
import warnings
from typing import TYPE_CHECKING

from rag_finetune.cli.flags import require_positive
from rag_finetune.cli.parsing import add_bool, make_parser, parse
from rag_finetune.cli.prompt_flags import add_prompt_flags, prompting_of

if TYPE_CHECKING:
    from pathlib import Path


def make_assemble_parser() -> argparse.ArgumentParser:
    """The flags of `assemble`."""
    parser = make_parser("assemble", "Join a question encoder and a generator into a checkpoint.")
    parser.add_argument(
        "--question_encoder",
        required=True,
        help="folder or Hub name: a DPR question encoder, or any BERT-like encoder",
    )
    parser.add_argument(
        "--generator",
        required=True,
        help="folder or Hub name of a BART or T5 model, or of a decoder-only one",
    )
    parser.add_argument(
        "--model_type",
        choices=("rag_sequence", "rag_token"),
        help="head, of a BART or T5 generator; default: rag_sequence",
    )
    parser.add_argument("--output_dir", required=True, help="the checkpoint folder to make")
    parser.add_argument("--index", help="index folder that it goes with; later if not given")
    parser.add_argument("--n_docs", type=int, default=5, help="passages a question")
    parser.add_argument(
        "--max_combined_length",
        type=int,
        help="tokens of passage and question together that the generator reads; default: 300, in "
        "a joined prompt for each passage",
    )
    parser.add_argument("--num_beams", type=int, help="beams; default: the generator's own")
    add_prompt_flags(parser.add_argument_group("a decoder-only generator"), answer=True)
    encoder = parser.add_argument_group("the question encoder, where its folder does not say it")
    encoder.add_argument("--pooling", choices=("cls", "mean"), help="how its vectors are pooled")
    add_bool(encoder, "normalize", None, "bring its vectors to length 1")
    encoder.add_argument(
        "--question_prefix", help="what stands in front of every question, space included"
    )
    encoder.add_argument(
        "--scale",
        type=float,
        help="factor of the questions' vectors, which sharpens p(z|x); default: 20 for normalised "
        "vectors, else 1",
    )
    encoder.add_argument(
        "--questions",
        metavar="FILE",
        help="questions to measure the entropy of p(z|x) on; default: sentences of the passages",
    )
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = make_assemble_parser()
    args = parse(parser, argv)
    require_positive(args, "n_docs", "max_combined_length", "num_beams", "max_target_length")
    if args.questions and not args.index:
        parser.error("--questions goes with --index")

    from rag_finetune.data.qa import load_questions
    from rag_finetune.index.store import open_index
    from rag_finetune.rag.assemble import assemble_rag
    from rag_finetune.rag.causal_checkpoint import is_causal

    questions: list[str] = []
    if args.questions:
        loaded = load_questions(args.questions, need_answers=False, keep_unanswerable=True)
        questions = loaded["question"][:]
    folder = assemble_rag(
        args.question_encoder,
        args.generator,
        args.output_dir,
        model_type=args.model_type or "rag_sequence",
        prompting=prompting_of(args),
        index=open_index(args.index) if args.index else None,
        n_docs=args.n_docs,
        max_combined_length=args.max_combined_length,
        generation={} if args.num_beams is None else {"num_beams": args.num_beams},
        pooling=args.pooling,
        normalize=args.normalize,
        question_prefix=args.question_prefix,
        scale=args.scale,
    )
    kind = "decoder-only" if is_causal(folder) else args.model_type or "rag_sequence"
    print(f"{folder}: {kind} of {args.question_encoder} and {args.generator}.")
    if args.index:
        _say_how_flat(folder, questions, args.questions)
    return 0


def _say_how_flat(folder: "Path", questions: list[str], file: str | None) -> None:
    """Print the entropy of p(z|x); warn where all passages weigh alike."""
    from rag_finetune.metrics.health import FLAT
    from rag_finetune.rag.checkpoint import load_rag
    from rag_finetune.rag.flatness import SAMPLE, passage_entropy, pseudo_questions

    rag = load_rag(folder)
    assert rag.retriever is not None  # the checkpoint has an index
    if not rag.retriever.index.manifest.has_vectors:
        print("The index holds no vectors: p(z|x) is by words, and the question encoder is idle.")
        return
    sample = questions or pseudo_questions(rag.retriever.index)
    entropy = passage_entropy(rag, sample)
    if entropy is None:
        return
    source = f"questions of {file}" if file else "first sentences of passages (none of --questions)"
    n_docs = rag.model.config.n_docs
    print(
        f"p(z|x) over {n_docs} passages has entropy {entropy:.3f} × ln {n_docs}, mean over "
        f"{min(SAMPLE, len(sample))} {source}."
    )
    if entropy > FLAT:
        warnings.warn(
            f"p(z|x) is nearly flat ({entropy:.3f} of at most 1): all passages weigh alike, and "
            "the question encoder will learn little. Raise --scale.",
            stacklevel=2,
        )
