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
    "closed_book": "fine-tuned, closed book",
    "bm25": "BM25 + starting generator",
    "starting": "starting model",
    FINE_TUNED: "fine-tuned",
}
COLUMNS = {
    "exact_match": "exact match",
    "f1": "F1",
    "recall@1": "recall@1",
    "recall@5": "recall@5",
}
INPUTS = "inputs.json"
EXAMPLES = 5
SNIPPET = 60  # characters of a passage that are shown


def check_inputs(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Write down what a comparison is made from, or hold it to what was written down.

    Args:
        folder: of the comparison; made when it does not exist.
        inputs: anything that `json.dumps` takes.

    Raises:
        ValueError: the folder holds a comparison of other inputs.
    """
    path = folder / INPUTS
    if not path.exists():
        write_json(path, inputs)
        return
    before = json.loads(read_text(path))
    now = json.loads(json.dumps(inputs))
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        raise ValueError(
            f"{folder}: holds a comparison of other inputs; {', '.join(differing)} differ. Choose "
            "another --output_dir, or give --overwrite."
        )


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
        print(f"{name}: {ROWS[row]} …", flush=True)
        save_evaluation(evaluators[row](name), folder / name / row)


def comparison_table(folder: Path, sets: Sequence[str], rows: Sequence[str]) -> str:
    """Figures of every row, a block for each set of questions; what is unknown is a dash."""
    label = max(len(name) for name in ROWS.values()) + 4
    lines = [" " * label + "".join(f"{title:>13}" for title in COLUMNS.values())]
    for name in sets:
        figures = {row: json.loads(read_text(folder / name / row / METRICS)) for row in rows}
        count = max(int(metrics["n_examples"]) for metrics in figures.values())
        lines.append(f"{name} ({count:,} questions)")
        for row, metrics in figures.items():
            cells = [_cell(metrics.get(column)) for column in COLUMNS]
            lines.append(f"{'  ' + ROWS[row]:<{label}}" + "".join(f"{cell:>13}" for cell in cells))
    return "\n".join(lines)


def examples(folder: Path, name: str, count: int = EXAMPLES) -> str:
    """Some questions, spread over a set, with the fine-tuned model's answers and its evidence."""
    path = folder / name / FINE_TUNED / PREDICTIONS
    predictions = [row for _, row in read_json_lines(path)]
    shown = sorted({number * len(predictions) // count for number in range(count)})
    return "\n\n".join(_example(predictions[number]) for number in shown)


def _cell(value: float | None) -> str:
    """A fraction in per cent."""
    return "–" if value is None else f"{100 * value:.1f} %"


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
