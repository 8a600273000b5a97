"""The flags of `index` that build indexes by words. Imports nothing heavy."""

import argparse
from typing import Any

from rag_finetune.index.words import LANGUAGES

# As in rag_finetune.index.lexical and .bm25, whose import would need numpy.
KINDS = ("bm25", "tfidf")
METHODS = ("lucene", "robertson", "atire", "bm25l", "bm25+")
OF_BM25 = {"bm25_method": "method", "bm25_k1": "k1", "bm25_b": "b"}
OF_VECTORS = {"pooling": None, "normalize": None, "passage_prefix": None, "index_type": "auto"}


def add_lexical_flags(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    group = parser.add_argument_group("search by words")
    group.add_argument(
        "--lexical",
        nargs="+",
        choices=KINDS,
        default=[],
        help="index by words, too or, without --context_encoder, alone; where --output_dir is a "
        "finished index of the same passages, what it has not yet is added",
    )
    group.add_argument(
        "--language",
        choices=LANGUAGES,
        help="drop the stop words of this language and reduce words to its stems, in passages and "
        "questions; default: every word as it is, whatever the language",
    )
    group.add_argument("--bm25_method", choices=METHODS, help="variant of BM25; default: lucene")
    group.add_argument(
        "--bm25_k1", type=float, help="how much a repeated word counts; default: 1.5"
    )
    group.add_argument(
        "--bm25_b", type=float, help="how much long passages are held back; default: 0.75"
    )


def lexical_kinds(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The settings of each kind that is asked for, as `build_word_index` takes them.

    Raises:
        ValueError: a flag is given that nothing would read.
    """
    given = {
        name: getattr(args, flag)
        for flag, name in OF_BM25.items()
        if getattr(args, flag) is not None
    }
    if given and "bm25" not in args.lexical:
        raise ValueError("--bm25_method, --bm25_k1 and --bm25_b go with --lexical bm25.")
    if args.language and not args.lexical:
        raise ValueError("--language goes with --lexical.")
    if not args.lexical and not args.context_encoder:
        raise ValueError("Give --context_encoder for an index of vectors, or --lexical for words.")
    stray = [flag for flag, default in OF_VECTORS.items() if getattr(args, flag) != default]
    if stray and not args.context_encoder:
        raise ValueError(f"--{stray[0]} goes with --context_encoder.")
    return {
        kind: {"language": args.language, **(given if kind == "bm25" else {})}
        for kind in dict.fromkeys(args.lexical)
    }
