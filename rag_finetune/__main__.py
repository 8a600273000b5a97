"""The entry point: `rag-finetune COMMAND …`, also `accelerate launch -m rag_finetune COMMAND …`."""

from __future__ import annotations

import difflib
import importlib
import os
import select
import sys
import traceback
import warnings
from collections.abc import Sequence

from rag_finetune import __version__

COMMANDS = {
    "index": "turn passages into an index folder",
    "update": "bring an index up to date: add, replace and remove documents",
    "compact": "build the FAISS file of an updated index anew, without what is gone",
    "assemble": "join a question encoder and a generator into a RAG checkpoint",
    "train": "fine-tune question encoder and generator end to end",
    "train-generator": "train the generator alone, on gold passages or on those found",
    "train-causal": "train a decoder-only generator to answer from what is retrieved",
    "train-retriever": "train question and context encoder by contrast",
    "evaluate": "score a checkpoint on a file of questions",
    "compare": "hold a fine-tuned model against its start and against what needs no training",
    "predict": "answer questions, with the passages behind each answer",
    "search": "look into an index",
    "train-reranker": "train a cross-encoder to put the gold passage first",
    "make-questions": "make questions of passages, to train a retriever without people's",
    "mine-negatives": "find passages that mislead, to train a retriever or a reranker on",
    "tune-retrieval": "choose on a file of questions how an index is searched",
    "export-beir": "write passages and questions as a BEIR folder",
    "doctor": "show what is installed and what is known not to work",
}

# What a shell reports for a program that was ended by SIGINT, and by SIGPIPE.
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; those of the process when None.

    Returns:
        The exit code: 0, 1 when the command failed, 2 when it was called wrongly.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--debug"]:
        words = [*words[1:], "--debug"]
    if not words or words == ["--debug"]:
        print(_usage(), file=sys.stderr)
        return 2
    command, arguments = words[0], words[1:]
    if command in ("-h", "--help"):
        print(_usage())
        return 0
    if command == "--version":
        print(f"rag-finetune {__version__}")
        return 0
    if command not in COMMANDS:
        print(f"rag-finetune: error: {_unknown(command)}", file=sys.stderr)
        return 2
    return _run(command, arguments)


def _run(command: str, arguments: list[str]) -> int:
    """Run a known command; what the user can put right becomes one line on stderr."""

    def one_line(message: Warning | str, *place: object, **more: object) -> str:
        return f"rag-finetune {command}: warning: {message}\n"

    before, warnings.formatwarning = warnings.formatwarning, one_line
    try:
        module = importlib.import_module(f"rag_finetune.cli.{command.replace('-', '_')}")
        code = module.main(arguments)
        sys.stdout.flush()  # so that a reader who has gone shows here, and not at exit
        return int(code or 0)
    except KeyboardInterrupt:
        print(f"rag-finetune {command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_gone():
            return EXIT_BROKEN_PIPE
        if "--debug" in arguments:
            traceback.print_exc()
        else:
            print(f"rag-finetune {command}: error: {_one_line(error)}", file=sys.stderr)
        if isinstance(error, OSError):
            _drop_what_cannot_be_written()
        return 1
    finally:
        warnings.formatwarning = before


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {help_line}" for name, help_line in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rag-finetune COMMAND [--config recipe.yaml] [--flag value …]",
            "",
            "Fine-tune retrieval-augmented generation models on Transformers' RAG classes.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            "  --help     this text; `rag-finetune COMMAND --help` lists the flags of a command",
            "  --version  the version of rag-finetune",
            "  --debug    show the traceback of an error instead of one line",
        ]
    )


def _unknown(command: str) -> str:
    found = f'unknown command "{command}".'
    nearest = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.5)
    if nearest:
        found += f' Did you mean "{nearest[0]}"?'
    return f"{found} The commands are {', '.join(COMMANDS)}."


def _one_line(error: ValueError | OSError) -> str:
    """The message on one line; for an error of the operating system without its number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _stdout_is_gone() -> bool:
    """Whether what reads our output has closed it (`| head`); if so, nothing more is written."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file of the system, or closed
        return False
    poll = select.poll()
    poll.register(output, 0)  # no event is asked for: errors are always reported
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    _send_to_nowhere(output)
    return True


def _drop_what_cannot_be_written() -> None:
    """Give up what stdout still holds where its disk is full."""
    try:
        sys.stdout.flush()
    except OSError:
        _send_to_nowhere(sys.stdout.fileno())


def _send_to_nowhere(output: int) -> None:
    """Python writes what is left at exit, and would exit with 120: give it somewhere to write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)


if __name__ == "__main__":
    sys.exit(main())
