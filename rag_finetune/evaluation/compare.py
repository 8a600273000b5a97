"""A fine-tuned model beside its start and what needs no training: one table, and some answers.

Every evaluation is kept in a folder of its own, SET/ROW, and is not done again: the same table
comes from the files alone, without a model being loaded. Imports nothing heavy.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_finetune.evaluation.report import METRICS, PREDICTIONS, save_evaluation
from rag_finetune.files import read_json_lines, read_text, write_json

if TYPE_CHECKING:
    from rag_finetune.evaluation.evaluate import Evaluation

FINE_TUNED = "fine_tuned"
ROWS = {
    "most_frequent": "most frequent answer",
    "closed_book": "closed book (fine-tuned)",
    "bm25": "BM25 + starting generator",
    "starting": "starting RAG",
    FINE_TUNED: "fine-tuned RAG",
}
OTHER = "other_index"  # no row of the table: the fine-tuned model, over other passages
CELL = 6  # characters of a column
ANSWERS = {"exact_match": ("exact", "match"), "f1": ("", "F1")}  # headings of two lines
# Over both columns stands one heading. Where no gold passages are known, the other is measured.
RECALL = {"recall@1": ("rec", "@1"), "recall@5": ("all   ", "@5")}
ANSWER_RECALL = {"answer_recall@1": ("answ. ", "@1"), "answer_recall@5": ("recall", "@5")}
INPUTS = "inputs.json"
MARK = {"made by": "rag-finetune compare"}  # the folder is ours
EXAMPLES = 5
SNIPPET = 60  # characters of a passage that are shown


def is_comparison(folder: Path) -> bool:
    """Whether a folder is one that `save_inputs` has written to."""
    try:
        found = json.loads(read_text(folder / INPUTS))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.items() >= MARK.items()


def check_inputs(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Hold a comparison to what `save_inputs` wrote down, where it did.

    Args:
        folder: of the comparison.
        inputs: anything that `json.dumps` takes.

    Raises:
        ValueError: the folder holds a comparison of other inputs.
    """
    path = folder / INPUTS
    if not path.exists():
        return
    before = json.loads(read_text(path))
    now = json.loads(json.dumps({**MARK, **inputs}))
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        raise ValueError(
            f"{folder}: holds a comparison of other inputs; {', '.join(differing)} differ. Choose "
            "another --output_dir, remove that folder, or give --overwrite."
        )


def save_inputs(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Write down what a comparison is made from; its folder is made when it does not exist."""
    write_json(folder / INPUTS, {**MARK, **inputs})


def missing_rows(folder: Path, sets: Sequence[str], rows: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of a row and a set of questions that were not evaluated yet."""
    pairs = itertools.product(rows, sets)
    return [(row, name) for row, name in pairs if not (folder / name / row / METRICS).is_file()]


def fill(
    folder: Path,
    sets: Sequence[str],
    evaluators: Mapping[str, Callable[[str], "Evaluation"]],
) -> None:
    """Evaluate what is missing, row by row, each result kept as soon as it is there.

    Args:
        folder: of the comparison.
        sets: names of the sets of questions.
        evaluators: by row; each evaluates the set of a name.
    """
    for row, name in missing_rows(folder, sets, list(evaluators)):
        print(f"{name}: {ROWS.get(row, 'fine-tuned RAG over the other index')} …", flush=True)
        save_evaluation(evaluators[row](name), folder / name / row)


def comparison_table(folder: Path, sets: Sequence[str], rows: Sequence[str]) -> str:
    """Figures of every row in per cent, sets of questions side by side; a dash: not known.

    Where no question of a set has gold passages, its recall is that of the answers.
    """
    figures = [
        {name: json.loads(read_text(folder / name / row / METRICS)) for name in sets}
        for row in rows
    ]
    titles = {name: f"{name}: {figures[0][name]['n_examples']:,} questions" for name in sets}
    columns = {name: _columns([metrics[name] for metrics in figures]) for name in sets}
    widths = [2 + max(CELL * len(columns[name]), len(titles[name])) for name in sets]
    table = [("per cent", list(titles.values()))]
    for line in (0, 1):
        heads = [
            "".join(f"{words[line]:>{CELL}}" for words in columns[name].values()) for name in sets
        ]
        table.append(("", heads))
    for row, metrics in zip(rows, figures, strict=True):
        cells = [[_cell(metrics[name].get(column)) for column in columns[name]] for name in sets]
        table.append((ROWS[row], ["".join(values) for values in cells]))
    label = max(map(len, ROWS.values()))
    return "\n".join(
        (head.ljust(label) + "".join(map(str.rjust, blocks, widths))).rstrip()
        for head, blocks in table
    )


def examples(folder: Path, name: str, count: int = EXAMPLES) -> str:
    """Some questions, spread over a set, with the fine-tuned model's answers and its evidence."""
    path = folder / name / FINE_TUNED / PREDICTIONS
    predictions = [row for _, row in read_json_lines(path)]
    shown = sorted({number * len(predictions) // count for number in range(count)})
    return "\n\n".join(_example(predictions[number]) for number in shown)


def swap_report(folder: Path, sets: Sequence[str], name: str) -> str:
    """How far the answers follow another index, in words, and one question asked of both.

    Args:
        folder: of the comparison.
        sets: names of the sets of questions asked of the first index.
        name: that of the set asked of the other; its first question with other answers is shown.
    """
    metrics = json.loads(read_text(folder / name / OTHER / METRICS))
    lines = [
        f"The other index, with no training: of {int(metrics['n_changed']):,} questions of {name} "
        "that it answers differently,",
        f"{100 * metrics['changed_exact_match']:.1f} % get its answer, "
        f"{100 * metrics['former_exact_match']:.1f} % that of the first index.",
    ]
    other = {row["id"]: row for _, row in read_json_lines(folder / name / OTHER / PREDICTIONS)}
    for first in sets:
        for _, row in read_json_lines(folder / first / FINE_TUNED / PREDICTIONS):
            found = other.get(row["id"])
            if (
                found
                and found["question"] == row["question"]
                and found["answers"] != row["answers"]
            ):
                shown = f"  {row['question']}  {row['prediction']} → {found['prediction']}"
                return "\n".join([*lines, shown])
    return "\n".join(lines)


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, tuple[str, str]]:
    """The columns of a set of questions with their headings, by what its rows have."""
    known = set().union(*rows)
    fallback = not known & RECALL.keys() and bool(known & ANSWER_RECALL.keys())
    return ANSWERS | (ANSWER_RECALL if fallback else RECALL)


def _cell(value: float | None) -> str:
    """A fraction in per cent, as wide as a column."""
    return f"{'–' if value is None else format(100 * value, '.1f'):>{CELL}}"


def _example(row: Mapping[str, Any]) -> str:
    """One question: the answer, the right one, and how much of it each passage explains."""
    lines = [
        f"  {row['question']}",
        f"    answer: {row['prediction']}   (right: {' | '.join(row['answers'][:3])})",
    ]
    for passage in row["passages"]:
        text = snippet(passage["text"], row["prediction"])
        lines.append(f"    {passage['posterior']:.2f}  {passage['title']}: {text}")
    return "\n".join(lines)


def snippet(text: str, answer: str, length: int = SNIPPET) -> str:
    """The part of a passage around an answer, or its start where it does not hold it."""
    text = " ".join(text.split())
    place = text.casefold().find(answer.casefold()) if answer else -1
    start = max(0, min(place - (length - len(answer)) // 2, len(text) - length))
    shown = text[start : start + length]
    return ("…" if start else "") + shown + ("…" if start + length < len(text) else "")
