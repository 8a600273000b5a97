"""Write the passages and questions about the chemical elements from the table beside this file.

    python data/elements/make_data.py [OUTPUT]

The same table and templates give the same bytes each time. `elements.csv` holds the facts,
`templates.json` the sentences and questions without them.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

from element_facts import permute_facts, read_table
from write_passages import Passage, write_passages
from write_questions import (
    Question,
    counterfactual_questions,
    split_facts,
    write_questions,
)

HERE = Path(__file__).resolve().parent


def save_passages(path: Path, passages: Sequence[Passage]) -> None:
    """Write passages in DPR's layout: id, text, title, between tabs."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(["id", "text", "title"])
        rows.writerows([passage.id, passage.text, passage.title] for passage in passages)


def save_questions(path: Path, questions: Sequence[Question]) -> None:
    """Write questions as one JSON list, a question a line."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in questions)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8", newline="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write every generated file into the folder named on the command line, or beside this one."""
    parser = argparse.ArgumentParser(description="Write the data about the chemical elements.")
    parser.add_argument("output", nargs="?", type=Path, default=HERE)
    output = parser.parse_args(arguments).output
    output.mkdir(parents=True, exist_ok=True)

    templates = json.loads((HERE / "templates.json").read_text(encoding="utf-8"))
    table = read_table(HERE / "elements.csv")
    passages = write_passages(table, templates)
    splits = split_facts(table)
    asked = {
        split: write_questions(table, facts, split, templates, passages)
        for split, facts in splits.items()
    }
    other_table = permute_facts(table)
    other_passages = write_passages(other_table, templates)

    save_passages(output / "passages.tsv", passages)
    save_passages(output / "passages_counterfactual.tsv", other_passages)
    for split, questions in asked.items():
        save_questions(output / f"{split}.json", questions)
    changed = counterfactual_questions(
        [*asked["test"], *asked["test_unseen"]], other_table, other_passages
    )
    save_questions(output / "test_counterfactual.json", changed)


if __name__ == "__main__":
    main()
