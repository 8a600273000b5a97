"""`rag-finetune export-beir`: passages and questions → a BEIR folder for retrieval toolkits."""

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from rag_finetune.cli.flags import add_passage_flags, add_question_flags, load_source
from rag_finetune.cli.parsing import make_parser, parse
from rag_finetune.files import check_file

if TYPE_CHECKING:
    from rag_finetune.data.beir import Query
    from rag_finetune.index.gold import Passages
    from rag_finetune.index.store import PassageIndex

SPLITS = {"train_file": "train", "validation_file": "dev", "eval_file": "test"}
EPILOG = """BEIR has judgements and no answers: these are left behind. A gold document that was cut
is judged piece by piece. Where two files give one id to different questions, as files without ids
do, all ids get the name of their split before them (test-0)."""


def make_export_beir_parser() -> argparse.ArgumentParser:
    """The flags of `export-beir`."""
    parser = make_parser(
        "export-beir",
        "Write passages and questions as BEIR folders have them: corpus.jsonl, queries.jsonl and "
        "qrels/.",
        EPILOG,
    )
    add_passage_flags(parser, index_help="index folder, whose passages are written")
    parser.set_defaults(passage_words=0)
    for flag, split in SPLITS.items():
        parser.add_argument(f"--{flag}", help=f"questions that become qrels/{split}.tsv")
    add_question_flags(parser)
    parser.add_argument("--output_dir", required=True, help="the folder to make")
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = make_export_beir_parser()
    args = parse(parser, argv)
    files = {split: getattr(args, flag) for flag, split in SPLITS.items() if getattr(args, flag)}
    if not files:
        parser.error(f"give one of {', '.join(f'--{flag}' for flag in SPLITS)}, or several")
    for path in files.values():
        check_file(path)
    output = Path(args.output_dir)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output}: already exists. Choose another --output_dir.")

    from rag_finetune.data.beir import write_beir

    source = load_source(args)
    read = {split: _read(args, path, source) for split, path in files.items()}
    splits = _with_own_ids(read)
    passages = source.passages.select_columns(["id", "title", "text"]).with_format(None)
    write_beir(output, passages, splits)
    print(f"{output}: {len(passages):,} passages; {_counts(splits)}.")
    if splits is not read:
        print("Some ids stand in two files, so each has the name of its split before it.")
    return 0


def _read(args: argparse.Namespace, path: str, source: "Passages | PassageIndex") -> "list[Query]":
    """The questions of a file, judged by their gold passages.

    Warns:
        UserWarning: some have none among the passages.
    """
    from rag_finetune.data.beir import Query
    from rag_finetune.data.qa import load_questions
    from rag_finetune.index.gold import gold_grades

    questions = load_questions(
        path,
        need_answers=False,
        qa_format=args.qa_format,
        keep_unanswerable=args.keep_unanswerable,
    )
    columns = (questions["id"], questions["question"], gold_grades(questions, source))
    found = [Query(*row) for row in zip(*columns, strict=True)]
    bare = [query.id for query in found if not query.grades]
    if bare:
        warnings.warn(
            f"{path}: {len(bare):,} of {len(found):,} questions have no gold passage among the "
            f'passages, the first with the id "{bare[0]}": they stand in queries.jsonl, unjudged.',
            stacklevel=2,
        )
    return found


def _with_own_ids(splits: "dict[str, list[Query]]") -> "dict[str, list[Query]]":
    """The splits, their names before the ids where an id stands in two of them."""
    every = [query.id for part in splits.values() for query in part]
    if len(set(every)) == len(every):
        return splits
    return {
        split: [query._replace(id=f"{split}-{query.id}") for query in found]
        for split, found in splits.items()
    }


def _counts(splits: "dict[str, list[Query]]") -> str:
    """How many questions each split has."""
    return ", ".join(f"{len(found):,} questions in {split}" for split, found in splits.items())
