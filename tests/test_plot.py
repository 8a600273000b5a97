import matplotlib.image
import pytest

from rag_finetune.evaluation import plot
from rag_finetune.evaluation.plot import plot_history

HISTORY = [
    {"step": 10, "loss": 3.0, "learning_rate": 1e-3},
    {"step": 20, "loss": 1.0, "learning_rate": 1e-3},
    {"step": 20, "eval_loss": 1.5, "eval_exact_match": 0.25, "eval_recall@1": 0.5},
    {"step": 40, "eval_loss": 0.5, "eval_exact_match": 0.75, "eval_recall@1": 0.5},
    {"step": 40, "train_runtime": 3.0},
]


def test_series_hold_each_figure_at_its_step():
    assert plot._series(HISTORY, plot.LOSSES) == {
        "training": ([10, 20], [3.0, 1.0]),
        "validation": ([20, 40], [1.5, 0.5]),
    }
    assert plot._series(HISTORY, plot.FIGURES) == {
        "exact match": ([20, 40], [0.25, 0.75]),
        "recall@1": ([20, 40], [0.5, 0.5]),
    }


def test_the_picture_has_a_panel_for_losses_and_one_for_figures(tmp_path):
    assert plot_history(HISTORY, tmp_path / "both.png")
    assert plot_history(HISTORY[:2], tmp_path / "losses.png")
    both, losses = (matplotlib.image.imread(tmp_path / name) for name in ("both.png", "losses.png"))
    assert both.shape[1] == 2 * losses.shape[1]
    assert losses[..., :3].min() < 0.5 < losses[..., :3].max()  # lines on a light ground
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.png", "losses.png"]


def test_the_titles_hold_for_every_kind_of_loss(tmp_path, monkeypatch):
    titles = []
    from matplotlib.axes import Axes

    monkeypatch.setattr(Axes, "set_title", lambda axes, title: titles.append(title))
    assert plot_history(HISTORY, tmp_path / "both.png")
    assert titles == ["loss", "on the validation questions"]  # summed or mean, weighted or not


def test_nothing_logged_makes_no_picture(tmp_path):
    assert not plot_history([{"step": 1, "train_runtime": 1.0}], tmp_path / "none.png")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError):
        plot_history(HISTORY, tmp_path / "missing" / "a.png")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "can_plot", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'rag-finetune\[plot\]'"):
        plot_history(HISTORY, tmp_path / "a.png")


def test_equal_figures_are_both_seen_and_the_panels_share_their_steps(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "save_figure", lambda figure, path: drawn.append(figure))
    history = [*HISTORY, {"step": 40, "eval_recall@5": 1.0, "eval_answer_recall@5": 1.0}]
    assert plot_history(history, tmp_path / "both.png")
    losses, figures = drawn[0].axes
    assert losses.get_xlim() == figures.get_xlim()
    styles = {line.get_label(): line.get_linestyle() for line in figures.lines}
    assert styles["recall@5"] == "-" and styles["answer recall@5"] == "--"
