"""metrics.json, predictions.jsonl, and the table that people read."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rag_finetune.files import read_text, write_json, write_jsonl

if TYPE_CHECKING:
    from rag_finetune.evaluation.evaluate import Evaluation

METRICS = "metrics.json"
PREDICTIONS = "predictions.jsonl"
NOT_FRACTIONS = ("bleu", "loss", "doc_entropy")


def save_evaluation(evaluation: "Evaluation", folder: Path) -> None:
    """Write predictions.jsonl, then metrics.json, into a folder that is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / PREDICTIONS, evaluation.predictions)
    write_json(folder / METRICS, evaluation.metrics)


def metrics_table(metrics: Mapping[str, float]) -> str:
    """Metrics as lines of name and value; fractions in per cent, counts and nats as they are."""
    width = max(len(name) for name in metrics)
    lines = [f"{name:<{width}}  {_format(name, value)}" for name, value in metrics.items()]
    return "\n".join(lines)


def _format(name: str, value: float) -> str:
    """One value as it is read: 50.0 % for a fraction."""
    if name.startswith("n_"):
        return f"{int(value):>8,}"
    if name in NOT_FRACTIONS:
        return f"{value:>8.3f}"
    return f"{100 * value:>8.1f} %"


def main(argv: list[str]) -> int:
    """Print the table of a folder that `rag-finetune evaluate` left."""
    if len(argv) != 1:
        print("usage: python -m rag_finetune.evaluation.report FOLDER", file=sys.stderr)
        return 2
    print(metrics_table(json.loads(read_text(Path(argv[0]) / METRICS))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
