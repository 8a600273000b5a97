"""`rag-finetune make-questions`: passages → questions made of their sentences."""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.flags import add_passage_flags, load_source, require_positive
from rag_finetune.cli.parsing import add_bool, make_parser, parse
from rag_finetune.files import require_new_file

if TYPE_CHECKING:
    from datasets import Dataset

BLOCK = 1000  # passages that are read at a time
EPILOG = """A question is a sentence of a passage with words dropped, and that passage its gold one.
Mine negatives for them with `mine-negatives`, beside people's questions where there are any, and
learn from both with `train-retriever`. Give the index that is searched, or its passages cut alike:
a gold passage is found by its text. They are for retrievers alone: their answer is the sentence,
by which passages that repeat it are no negatives."""


def make_make_questions_parser() -> argparse.ArgumentParser:
    """The flags of `make-questions`."""
    parser = make_parser(
        "make-questions",
        "Make questions of the passages themselves, to train a retriever where people have asked "
        "few or none.",
        EPILOG,
    )
    add_passage_flags(parser, index_help="index folder, whose passages are taken")
    parser.add_argument("--output_file", required=True, help="the JSON file to write")
    parser.add_argument("--per_passage", type=int, default=1, help="questions of each at most")
    parser.add_argument(
        "--share_kept", type=float, default=0.6, help="the share of a sentence's words that stay"
    )
    parser.add_argument(
        "--max_passages", type=int, help="draw so many passages; default: take all of them"
    )
    parser.add_argument("--seed", type=int, default=42, help="of what is drawn")
    add_bool(parser, "overwrite", False, "replace --output_file")
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(make_make_questions_parser(), argv)
    require_positive(args, "per_passage", "max_passages")
    if not 0 < args.share_kept <= 1:
        raise ValueError(
            f"--share_kept must be above 0 and at most 1, found {args.share_kept}. Write 0.6, say."
        )
    output = Path(args.output_file)
    require_new_file(output, args.overwrite, args.passages or ())

    from rag_finetune.files import write_json_list

    source = load_source(args)
    passages = _drawn(source.passages, args.max_passages, args.seed)
    counts = {"questions": 0, "passages": 0}
    write_json_list(output, _questions(passages, args, counts, source.folder))
    print(
        f"{counts['questions']:,} questions of {counts['passages']:,} passages; "
        f"{len(passages) - counts['passages']:,} have no sentence that is long enough."
    )
    print(f"\nWritten: {output}.")
    return 0


def _drawn(passages: "Dataset", count: int | None, seed: int) -> "Dataset":
    """So many of the passages, in their order; all of them where there are no more."""
    passages = passages.select_columns(["id", "title", "text"]).with_format(None)
    if count is None or count >= len(passages):
        return passages
    return passages.select(sorted(random.Random(seed).sample(range(len(passages)), count)))


def _questions(
    passages: "Dataset", args: argparse.Namespace, counts: dict[str, int], source: str | Path
) -> Iterator[dict[str, Any]]:
    """The questions, counted.

    Raises:
        ValueError: there is none, once all passages were looked at.
    """
    from transformers.utils.logging import tqdm

    from rag_finetune.data.cloze import cloze_questions

    per_passage, names = args.per_passage, ("id", "title", "text")
    with tqdm(total=len(passages), desc="Making questions", unit=" passages") as bar:
        for block in passages.iter(batch_size=BLOCK):
            for row in zip(*(block[name] for name in names), strict=True):
                passage = dict(zip(names, row, strict=True))
                made = list(cloze_questions([passage], per_passage, args.share_kept, args.seed))
                counts["questions"] += len(made)
                counts["passages"] += bool(made)
                yield from made
            bar.update(len(block["id"]))
    if not counts["questions"]:
        raise ValueError(
            f"{source}: expected passages with a sentence of at least 8 words, found none among "
            f"{len(passages):,}. Give documents of whole sentences, cut to more words a passage."
        )
