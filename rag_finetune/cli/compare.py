"""`rag-finetune compare`: a fine-tuned model, its start, and baselines → one table."""

import argparse
import functools
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.flags import (
    CHECKPOINT,
    add_decoding_flags,
    add_question_flags,
    best_device,
    decoding_options,
)
from rag_finetune.cli.parsing import add_bool, make_parser, parse
from rag_finetune.evaluation.compare import (
    EXAMPLES,
    INPUTS,
    OTHER,
    ROWS,
    check_inputs,
    comparison_table,
    examples,
    fill,
    is_comparison,
    missing_rows,
    save_inputs,
    swap_report,
)
from rag_finetune.evaluation.identity import (
    identify_checkpoint,
    identify_index,
    identify_questions,
)
from rag_finetune.files import check_file
from rag_finetune.rag.index_choice import own_index, own_retrieval, require_usable_index

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_finetune.evaluation.evaluate import Evaluation
    from rag_finetune.rag.checkpoint import Rag

EPILOG = """\
The rows: always the most frequent training answer; the fine-tuned generator without passages
(closed book); the starting generator with the passages of BM25; the starting model; the fine-tuned
model. With --other_index and --other_file the fine-tuned model also answers from another edition of
the passages, with no training. Every row reads and answers as the fine-tuned model does: its head,
n_docs, beams and lengths. What is in --output_dir is not evaluated again.
"""


def make_compare_parser() -> argparse.ArgumentParser:
    """The flags of `compare`."""
    parser = make_parser(
        "compare", "Hold a fine-tuned model against its start and against baselines.", EPILOG
    )
    parser.add_argument("--model_name_or_path", required=True, help=f"fine-tuned: {CHECKPOINT}")
    parser.add_argument("--starting_model", required=True, help="what it was fine-tuned from")
    parser.add_argument("--index", help="index folder of both; default: each checkpoint's own")
    parser.add_argument("--train_file", required=True, help="questions that were trained on")
    parser.add_argument(
        "--eval_files", nargs="+", required=True, metavar="FILE", help="questions to evaluate on"
    )
    parser.add_argument("--other_index", help="an index of another edition of the passages")
    parser.add_argument(
        "--other_file",
        metavar="FILE",
        help="questions with its answers, some of them with ids of --eval_files",
    )
    add_question_flags(parser)
    parser.add_argument(
        "--kind_pattern",
        metavar="REGEX",
        help="what it finds in a question's id is the question's kind (its first group, if it has "
        "one), for the most frequent answer of each kind; default: all are of one",
    )
    parser.add_argument(
        "--output_dir", required=True, help="for the metrics and predictions of every row"
    )
    add_decoding_flags(parser)
    add_bool(parser, "overwrite", False, "remove the comparison that --output_dir holds first")
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = make_compare_parser()
    args = parse(parser, argv)
    if bool(args.other_index) is not bool(args.other_file):
        parser.error("--other_index and --other_file go together")
    sets = {Path(file).stem: file for file in args.eval_files}
    others = {Path(file).stem: file for file in [args.other_file] if file}
    if len({**sets, **others}) < len(args.eval_files) + len(others):
        parser.error("--eval_files and --other_file must have different names: results bear them")
    for file in (args.train_file, *sets.values(), *others.values()):
        check_file(file)
    kind_of = _kinds(args.kind_pattern)
    options = decoding_options(args)
    for model in (args.model_name_or_path, args.starting_model):
        require_usable_index(model, args.index)
    if args.other_index:
        require_usable_index(args.model_name_or_path, args.other_index)
    folder = Path(args.output_dir)
    _require_room(folder)
    inputs = _inputs(args, options)
    if not args.overwrite:
        check_inputs(folder, inputs)
    missing = missing_rows(folder, list(sets), list(ROWS))
    missing += missing_rows(folder, list(others), [OTHER])
    if missing or args.overwrite:
        # What is wrong with questions, models or indexes is said here, before anything is changed.
        evaluators = _evaluators(args, {**sets, **others}, kind_of, options)
        if args.overwrite:
            _remove(folder)
        save_inputs(folder, inputs)
        fill(folder, list(sets), {row: evaluators[row] for row in ROWS})
        fill(folder, list(others), {OTHER: evaluators[OTHER]} if others else {})
        print()
    print(comparison_table(folder, list(sets), list(ROWS)))
    for name in others:
        print(f"\n{swap_report(folder, list(sets), name)}")
    first = next(iter(sets))
    print(f"\n{EXAMPLES} questions of {first}, answered by the fine-tuned model; before each")
    print("passage its share in the answer, p(passage | question, answer):\n")
    print(examples(folder, first))
    print(f"\nWritten to {folder}: SET/ROW/metrics.json and predictions.jsonl.")
    return 0


def _kinds(pattern: str | None) -> Callable[[str], str]:
    """The kind of a question by its id.

    Raises:
        ValueError: the pattern is no regular expression.
    """
    try:
        compiled = re.compile(pattern or r"\A()")
    except re.error as error:
        raise ValueError(
            f'--kind_pattern "{pattern}": not a regular expression: {error}.'
        ) from error

    def kind_of(id: str) -> str:
        found = compiled.search(id)
        return "" if found is None else found[min(1, compiled.groups)] or ""

    return kind_of


def _room(settings: Any) -> int | None:
    """Tokens that an answer may have by a model's generation settings; None where they say none."""
    if settings.max_new_tokens is not None or settings.max_length is None:
        limit: int | None = settings.max_new_tokens
        return limit
    return int(settings.max_length) - 1  # the start token


def _remove(folder: Path) -> None:
    """Remove the results of a comparison, and nothing else that may stand beside them."""
    if is_comparison(folder):
        for row in (*ROWS, OTHER):
            for results in folder.glob(f"*/{row}"):
                shutil.rmtree(results)
        (folder / INPUTS).unlink()


def _require_room(folder: Path) -> None:
    """Raise where results would be mixed with something else.

    Raises:
        FileExistsError: the folder holds something that is no comparison.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: is a file. Choose a folder for --output_dir.")
    if folder.is_dir() and any(folder.iterdir()) and not is_comparison(folder):
        raise FileExistsError(
            f"{folder}: is not empty and holds no comparison. Choose another --output_dir."
        )


def _inputs(args: argparse.Namespace, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the figures depend on, by its content and not by how it is spelt."""
    inputs = own_retrieval(args.model_name_or_path)
    for name in ("kind_pattern", "qa_format", "keep_unanswerable"):
        inputs[f"--{name}"] = getattr(args, name)
    inputs["--train_file"] = identify_questions(args.train_file)
    inputs["--eval_files"] = [identify_questions(file) for file in args.eval_files]
    inputs["--other_file"] = args.other_file and identify_questions(args.other_file)
    inputs["--other_index"] = args.other_index and identify_index(args.other_index)
    models = (args.model_name_or_path, args.starting_model)
    inputs["--model_name_or_path"], inputs["--starting_model"] = map(identify_checkpoint, models)
    indexes = [args.index or own_index(model) for model in models]
    inputs["--index"] = [index and identify_index(index) for index in indexes]
    return inputs | {f"--{name}": options[name] for name in options if name != "batch_size"}


def _former(tables: "Mapping[str, Dataset]") -> dict[str, dict[str, Any]]:
    """The questions of several files by their ids, to find them again in the file of an edition.

    Raises:
        ValueError: an id stands for different questions.
    """
    former: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    for file, table in tables.items():
        for row in table:
            first = places.setdefault(row["id"], file)
            if former.setdefault(row["id"], row)["question"] != row["question"]:
                raise ValueError(
                    f'{file}: the id "{row["id"]}" is that of another question in {first}, so that '
                    "--other_file cannot name one of them. Give every question an id of its own."
                )
    return former


def _evaluators(
    args: argparse.Namespace,
    sets: Mapping[str, str],
    kind_of: Callable[[str], str],
    options: dict[str, Any],
) -> dict[str, "Callable[[str], Evaluation]"]:
    """How each row is evaluated; all questions and models are loaded first, so as to fail early."""
    from rag_finetune.data.qa import load_questions
    from rag_finetune.evaluation.baselines import (
        evaluate_closed_book,
        evaluate_lexical,
        evaluate_most_frequent,
    )
    from rag_finetune.evaluation.evaluate import evaluate_rag
    from rag_finetune.evaluation.other_index import changed_ids, evaluate_other_index
    from rag_finetune.index.lexical import require_lexical
    from rag_finetune.rag.checkpoint import load_rag
    from rag_finetune.rag.heads import MODEL_TYPES

    require_lexical("bm25")

    @functools.cache
    def load(name: str, index: str | None = args.index) -> "Rag":
        if name == args.model_name_or_path:
            rag = load_rag(name, index=index)
        else:  # it searches, reads and answers like the fine-tuned model
            model, _, retriever = load(args.model_name_or_path)
            way = retriever.searcher.retrieval if retriever else None
            heads = [head for head, kind in MODEL_TYPES.items() if isinstance(model, kind)]
            rag = load_rag(name, index=index, model_type=next(iter(heads), None), retrieval=way)
            rag.model.config.max_combined_length = model.config.max_combined_length
        rag.model.to(best_device())
        return rag

    @functools.cache
    def questions(file: str) -> "Dataset":
        return load_questions(
            file, qa_format=args.qa_format, keep_unanswerable=args.keep_unanswerable
        )

    def asked(name: str) -> dict[str, Any]:
        # The same in every row: what was not asked for is as the fine-tuned model has it.
        model = load(args.model_name_or_path).model
        settings = model.generation_config
        same = {"max_new_tokens": _room(settings), "num_beams": settings.num_beams or 1}
        n_docs = options["n_docs"] or model.config.n_docs
        return {"questions": questions(sets[name]), **same, **options, "n_docs": n_docs}

    def by(evaluate: "Callable[..., Evaluation]", model: str) -> "Callable[[str], Evaluation]":
        return lambda name: evaluate(load(model), **asked(name), progress=True)

    def closed_book(rag: "Rag", n_docs: int, batch_size: int, **shown: Any) -> "Evaluation":
        # One context a question: in the memory of the other rows, n_docs times as many questions.
        return evaluate_closed_book(rag, batch_size=batch_size * n_docs, **shown)

    before, after = args.starting_model, args.model_name_or_path
    for file in (args.train_file, *sets.values()):
        questions(file)
    former: dict[str, dict[str, Any]] = {}
    if args.other_file:
        former = _former({file: questions(file) for file in args.eval_files})
        changed_ids(questions(args.other_file), former)
    load(after)
    load(before)
    if args.other_index:
        load(after, args.other_index)

    def other_index(name: str) -> "Evaluation":
        rag = load(after, args.other_index)
        return evaluate_other_index(rag, former=former, **asked(name), progress=True)

    return {
        "most_frequent": lambda name: evaluate_most_frequent(
            questions(args.train_file), questions(sets[name]), kind_of
        ),
        "closed_book": by(closed_book, after),
        "bm25": by(evaluate_lexical, before),
        "starting": by(evaluate_rag, before),
        "fine_tuned": by(evaluate_rag, after),
        OTHER: other_index,
    }
