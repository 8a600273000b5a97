"""A picture of a training run: loss, answers and retrieval over its steps."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOSSES = {"loss": "training", "eval_loss": "validation"}
FIGURES = {
    "eval_exact_match": "exact match",
    "eval_f1": "F1",
    "eval_recall@1": "recall@1",
    "eval_recall@5": "recall@5",
    "eval_answer_recall@5": "answer recall@5",
}
DASHED = FIGURES["eval_answer_recall@5"]  # often lies on recall@5, which shows through


def can_plot() -> bool:
    """Whether matplotlib, which the extra `plot` installs, is there."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_history(log_history: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draw what a run logged: losses on the left, validation figures on the right.

    Args:
        log_history: as in trainer_state.json: dicts with `step` and figures by name.
        path: the PNG to write; it appears whole or not at all.

    Returns:
        False where nothing was logged that could be drawn; no file is written then.

    Raises:
        ValueError: matplotlib is not installed.
    """
    if not can_plot():
        raise ValueError("Plots need matplotlib: pip install 'rag-finetune[plot]'.")
    panels = [
        ("loss", _series(log_history, LOSSES)),
        ("on the validation questions", _series(log_history, FIGURES)),
    ]
    panels = [(title, lines) for title, lines in panels if lines]
    if not panels:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(panels), 3.6), layout="constrained")
    grid = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    for axes, (title, lines) in zip(grid, panels, strict=True):
        for label, (steps, values) in lines.items():
            marker, style = "o" if len(steps) < 30 else "", "--" if label == DASHED else "-"
            axes.plot(steps, values, label=label, marker=marker, linestyle=style)
        axes.set_title(title)
        axes.set_xlabel("optimiser step")
        axes.grid(alpha=0.3)
        axes.legend()
        axes.set_ylim(bottom=0.0, top=None if lines.keys() <= set(LOSSES.values()) else 1.02)
    save_figure(figure, path)
    return True


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as a PNG that appears whole or not at all."""
    staged = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        figure.savefig(staged, format="png", dpi=130)
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def _series(
    log_history: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of each figure that was logged, by its label."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for entry in log_history:
        for name, label in names.items():
            if name in entry:
                steps, values = series.setdefault(label, ([], []))
                steps.append(entry["step"])
                values.append(entry[name])
    return series
