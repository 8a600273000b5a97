"""Flags of how a decoder-only generator is asked. Imports nothing heavy."""

import argparse
from typing import TYPE_CHECKING

from rag_finetune.cli.parsing import add_bool

if TYPE_CHECKING:
    from rag_finetune.rag.causal_assemble import Prompting

READINGS = ("ensemble", "joined")


def add_prompt_flags(parser: argparse._ActionsContainer, *, answer: bool) -> None:
    """Add them; answer: also the length of an answer, where no training argument has it."""
    parser.add_argument(
        "--reading",
        choices=READINGS,
        help="a prompt for each passage, their predictions mixed by p(z|x), or all passages in "
        "one; default: ensemble",
    )
    parser.add_argument(
        "--prompt_template",
        metavar="TEXT",
        help="the prompt, with {question} and {passage} (ensemble) or {passages} (joined); "
        "default: passages, a line with the question, Answer:",
    )
    add_bool(
        parser,
        "chat",
        None,
        "the prompt is what the user says in the tokenizer's chat template; default: where it has "
        "one",
    )
    if answer:
        parser.add_argument(
            "--max_target_length", type=int, help="tokens of an answer, its end included"
        )


def prompting_of(args: argparse.Namespace) -> "Prompting":
    """What the flags say."""
    from rag_finetune.rag.causal_assemble import Prompting

    return Prompting(
        args.reading, args.prompt_template, args.chat, getattr(args, "max_target_length", None)
    )
