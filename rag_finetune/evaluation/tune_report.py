"""What tuning of retrieval shows: a table, and a picture."""

from collections.abc import Sequence
from pathlib import Path

from rag_finetune.evaluation.plot import can_plot, save_figure
from rag_finetune.evaluation.tune import METRICS, Trial
from rag_finetune.metrics.retrieval import KS


def tuning_table(trials: Sequence[Trial], best: Trial) -> str:
    """A line for each trial, per cent, with a star at the best."""
    names = [_name(trial) for trial in trials]
    width = max(map(len, [*names, "per cent"]))
    lines = [
        f"  {'per cent':<{width}}" + "".join(f"{name:>11}" for name in METRICS) + "   ms, vectors"
    ]
    for name, trial in zip(names, trials, strict=True):
        figures = "".join(f"{100 * trial.metrics[metric]:>11.2f}" for metric in METRICS)
        star = "*" if trial is best else " "
        lines.append(f"{star} {name:<{width}}{figures}{trial.milliseconds:>14.3f}")
    return "\n".join(lines)


def plot_tuning(trials: Sequence[Trial], best: Trial, metric: str, path: Path) -> None:
    """Draw the figure over the share of words, and recall over the passages that are read.

    Args:
        trials: all that were tried.
        best: the one that was chosen.
        metric: by which it was.
        path: the PNG to write.

    Raises:
        ValueError: matplotlib is not installed.
    """
    require_plot()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    same = [
        trial
        for trial in trials
        if not trial.retrieval.by_vectors or trial.search_parameters == best.search_parameters
    ]
    ways: dict[str, list[Trial]] = {}
    for trial in same:
        ways.setdefault(_kind(trial), []).append(trial)
    colours = {kind: f"C{number}" for number, kind in enumerate(ways)}  # in both panels
    for kind, found in ways.items():
        values = [trial.metrics[metric] for trial in found]
        if _is_hybrid(found[0]):
            weights = [trial.retrieval.weight for trial in found]
            left.plot(weights, values, color=colours[kind], marker="o", label=kind)
        else:
            left.axhline(values[0], color=colours[kind], linestyle="--", label=kind)
    left.set_xlabel("share of the words in a hybrid")
    left.set_ylabel(metric)
    for trial in [one for one in same if one is best or not _is_hybrid(one)]:
        recalls = [trial.metrics[f"recall@{k}"] for k in KS]
        colour, dashes = colours[_kind(trial)], "-" if _is_hybrid(trial) else "--"
        label = trial.retrieval.describe()
        right.plot(KS, recalls, dashes, color=colour, marker="o", label=label)
    right.set_xticks(KS)
    right.set_xlabel("passages a question (n_docs)")
    right.set_ylabel("recall")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save_figure(figure, path)


def require_plot() -> None:
    """Raise where nothing can be drawn.

    Raises:
        ValueError: matplotlib is not installed.
    """
    if not can_plot():
        raise ValueError("Plots need matplotlib: pip install 'rag-finetune[plot]'.")


def _is_hybrid(trial: Trial) -> bool:
    return trial.retrieval.way == "hybrid"


def _kind(trial: Trial) -> str:
    """What a trial has in common with those that differ from it in the share of words."""
    way = trial.retrieval
    return f"hybrid, {way.lexical}, {way.fusion}" if _is_hybrid(trial) else way.way


def _name(trial: Trial) -> str:
    """A trial in words."""
    settings = [f"{name} {value}" for name, value in trial.search_parameters.items()]
    by_words = not trial.retrieval.by_vectors
    return ", ".join([trial.retrieval.describe(), *([] if by_words else settings)])
