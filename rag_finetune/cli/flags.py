"""Flags that several commands share, and what becomes of them. Imports nothing heavy."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.parsing import add_bool, split_config
from rag_finetune.cli.recipe import read_recipe, recipe_keys
from rag_finetune.data.formats import FORMATS
from rag_finetune.index.manifest import load_manifest
from rag_finetune.retrieval.way import LEXICAL, RERANK_TOP, WAYS, default_retrieval, retrieval_of

if TYPE_CHECKING:
    from rag_finetune.index.gold import Passages
    from rag_finetune.index.store import PassageIndex

CHECKPOINT = "checkpoint folder that `assemble` or `train` left, or a Hub name"


def add_decoding_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of answering questions."""
    parser.add_argument("--n_docs", type=int, help="passages a question; default: the model's own")
    parser.add_argument("--num_beams", type=int, help="beams; default: the model's own")
    parser.add_argument(
        "--max_new_tokens", type=int, help="tokens of an answer at most; default: the model's own"
    )
    parser.add_argument(
        "--decoding",
        choices=("thorough", "fast"),
        default="thorough",
        help="RAG-Sequence: score each candidate under every passage, or only where it was found",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="questions at a time")
    parser.add_argument(
        "--max_question_length", type=int, default=128, help="tokens of a question; the rest is cut"
    )


def add_question_flags(parser: argparse._ActionsContainer) -> None:
    """Add the flags of reading files of questions."""
    parser.add_argument(
        "--qa_format",
        help="of the questions: json, dpr, squad, beir, …; default: told by the file",
    )
    add_bool(
        parser,
        "keep_unanswerable",
        False,
        "keep SQuAD's unanswerable questions, with the empty string as their answer",
    )


def add_passage_flags(
    parser: argparse.ArgumentParser, *, index_help: str, required: bool = True
) -> None:
    """Add the flags of passages that come from files or from an index, and of cutting the files.

    Args:
        parser: what gets them.
        index_help: what is said of --index.
        required: one of --passages and --index must be given.
    """
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument("--passages", nargs="+", metavar="FILE", help="documents, in files")
    source.add_argument("--index", help=index_help)
    parser.add_argument(
        "--passages_format", choices=FORMATS, help="of --passages; default: told by the files"
    )
    parser.add_argument(
        "--passage_words",
        type=int,
        default=100,
        help="words a passage at most; 0 keeps documents whole",
    )


def load_source(args: argparse.Namespace) -> "Passages | PassageIndex":
    """The passages that the flags of `add_passage_flags` name."""
    from rag_finetune.data.passages import load_passages
    from rag_finetune.index.gold import Passages
    from rag_finetune.index.store import open_index

    if args.index:
        return open_index(args.index)
    found = load_passages(args.passages, args.passage_words, passages_format=args.passages_format)
    return Passages(found, ", ".join(args.passages))


def add_retrieval_flags(parser: argparse._ActionsContainer, *, prior: bool = True) -> None:
    """Add the flags of how passages are found, and of what words have to do with p(z|x)."""
    parser.add_argument(
        "--retrieval",
        choices=WAYS,
        help="find passages by vectors, by words, or by both; default: as the checkpoint was "
        "trained, or as `tune-retrieval` chose for the index, or by vectors where there are any",
    )
    if prior:
        parser.add_argument(
            "--lexical_prior",
            type=float,
            help="λ of p(z|x) = softmax(q·d + λ × score by words); default: the checkpoint's own, "
            "or 0 (for an index without vectors 1)",
        )


def by_words_alone(args: argparse.Namespace) -> bool:
    """Whether the index that --index names is searched by words: as a flag, or else it says.

    Raises:
        OSError: it is no index folder.
        ValueError: its manifest is damaged.
    """
    if args.retrieval or not args.index:
        return bool(args.index) and args.retrieval in LEXICAL
    manifest = load_manifest(Path(args.index))
    default = default_retrieval(manifest).data()
    return retrieval_of(manifest.retrieval or default, args.index).way in LEXICAL


def add_reranker_flags(parser: argparse._ActionsContainer) -> None:
    """Add the flags of a cross-encoder that puts in order what was found."""
    parser.add_argument(
        "--reranker",
        metavar="M",
        help="folder or Hub name of a cross-encoder, which chooses among the first passages found",
    )
    parser.add_argument(
        "--rerank_top",
        type=int,
        metavar="L",
        help=f"passages of a question that --reranker looks at; default: {RERANK_TOP}",
    )


def with_reranker(searcher: Any, args: argparse.Namespace) -> Any:
    """A searcher, its first passages put in order by --reranker where that is given.

    Raises:
        ValueError: there is --rerank_top without it, or it is no cross-encoder.
        OSError: it cannot be read.
    """
    if not args.reranker:
        if args.rerank_top is not None:
            raise ValueError("--rerank_top says how many passages --reranker looks at: give that.")
        return searcher

    from rag_finetune.retrieval.rerank import load_reranker
    from rag_finetune.retrieval.reranked import RerankedSearcher

    reranker = load_reranker(args.reranker)
    network: Any = reranker.model
    network.to(best_device())
    top = RERANK_TOP if args.rerank_top is None else args.rerank_top
    return RerankedSearcher(searcher, reranker, top)


def add_encoder_flags(parser: argparse._ActionsContainer) -> None:
    """Add the flags of a bare --question_encoder."""
    parser.add_argument(
        "--pooling",
        choices=("cls", "mean"),
        help="of --question_encoder; default: what its folder says, or is known of it",
    )
    add_bool(parser, "normalize", None, "bring its vectors to length 1; default: as for --pooling")
    parser.add_argument(
        "--question_prefix",
        help="what stands before every question, its space included; default: as for --pooling",
    )


def encoder_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `load_question_encoder` takes, from the flags; refused where there is no encoder.

    Raises:
        ValueError: one is given without --question_encoder.
    """
    options = {
        "pooling": args.pooling,
        "normalize": args.normalize,
        "prefix": args.question_prefix,
    }
    if not args.question_encoder and any(value is not None for value in options.values()):
        raise ValueError(
            "--pooling, --normalize and --question_prefix are for a bare --question_encoder: a "
            "checkpoint has its own."
        )
    return options


def add_probe_flag(parser: argparse._ActionsContainer) -> None:
    """Add the flag that switches the probe off."""
    add_bool(
        parser,
        "probe",
        True,
        "first see on 200 questions that retrieval is better than chance, or stop",
    )


def peek(argv: Sequence[str], *names: str) -> dict[str, str | None]:
    """Values of a few flags before anything else is read, so that no library need be imported.

    Args:
        argv: the words after the command's name.
        *names: flags that take one value, without dashes.

    Returns:
        The value of each, from the command line or the recipe; None where it is not given. What
        is wrong with the other words is left for `parse` to say.

    Raises:
        ValueError: the recipe cannot be read.
    """
    recipe, rest = split_config(argv)
    words = [] if recipe is None else read_recipe(recipe, recipe_keys(recipe))
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        parser.add_argument(f"--{name}")
    try:
        return vars(parser.parse_known_args([*words, *rest])[0])
    except argparse.ArgumentError:  # a flag without its value
        return dict.fromkeys(names)


def require_positive(args: argparse.Namespace, *names: str) -> None:
    """Raise for a flag that must be at least 1.

    Raises:
        ValueError: one of the named flags is set and below 1.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, found {value}.")


def decoding_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `evaluate_rag` and `generate_answers` take, from the flags that were given.

    Raises:
        ValueError: a number is below 1.
    """
    require_positive(
        args, "n_docs", "num_beams", "max_new_tokens", "batch_size", "max_question_length"
    )
    generation = {
        name: getattr(args, name)
        for name in ("num_beams", "max_new_tokens")
        if getattr(args, name) is not None
    }
    return {
        "n_docs": args.n_docs,
        "batch_size": args.batch_size,
        "max_question_length": args.max_question_length,
        "thorough": args.decoding == "thorough",
        **generation,
    }


def training_flags(arguments: type, parser: argparse.ArgumentParser) -> Any:
    """Transformers' parser for training arguments, its gaps closed.

    Args:
        arguments: a dataclass of training arguments.
        parser: the command's own, which says what is wrong: the usage of Transformers' would be
            hundreds of flags, under the name of another program.
    """
    from transformers import HfArgumentParser
    from transformers.hf_argparser import string_to_bool

    training_parser: Any = HfArgumentParser(arguments, allow_abbrev=False)  # type: ignore[arg-type]
    training_parser.error = parser.error
    # Gaps of Transformers 5.23; delete each when its parser takes the flag as it is documented.
    for action in training_parser._actions:
        if action.type is string_to_bool and action.nargs is None:
            action.nargs, action.const = "?", True  # no bare flag where the default is None
    actions = {action.dest: action for action in training_parser._actions}
    actions["report_to"].nargs = "+"  # takes one
    seen = actions["include_num_input_tokens_seen"]  # takes true and false alone
    seen.type, seen.const, seen.choices = _tokens_seen, "all", ("all", "non_padding", "no")
    return training_parser


def _tokens_seen(word: str) -> str:
    """What --include_num_input_tokens_seen counts; true and false as Transformers reads them."""
    return {"true": "all", "false": "no"}.get(word.lower(), word)


def best_device() -> Any:
    """The accelerator of this machine, or its processor."""
    import torch

    return torch.accelerator.current_accelerator() or torch.device("cpu")
