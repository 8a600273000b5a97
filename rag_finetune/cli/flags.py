"""Flags that several commands share, and what becomes of them. Imports nothing heavy."""

import argparse
from typing import Any

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
