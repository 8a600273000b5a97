"""The table and the picture of a tuning."""

import matplotlib.image
import pytest

from rag_finetune.evaluation import tune_report
from rag_finetune.evaluation.tune import METRICS, Trial
from rag_finetune.evaluation.tune_report import plot_tuning, tuning_table
from rag_finetune.retrieval.way import Retrieval


def trial(retrieval, value, milliseconds=0.0, **parameters):
    return Trial(retrieval, parameters, dict.fromkeys(METRICS, value), milliseconds)


TRIALS = [
    trial(Retrieval("bm25"), 0.5),
    trial(Retrieval("dense"), 0.625, 1.5, efSearch=64),
    trial(Retrieval("hybrid", weight=0.3), 0.75, 1.5, efSearch=64),
    trial(Retrieval("hybrid", weight=0.6), 0.7, 1.5, efSearch=64),
]


def test_the_table_has_a_line_for_each_way_and_a_star_at_the_best():
    header, *lines = tuning_table(TRIALS, TRIALS[2]).splitlines()
    assert header.split() == ["per", "cent", *METRICS, "ms,", "vectors"]
    assert lines[0].split() == ["bm25", *["50.00"] * 5, "0.000"]
    assert lines[1].startswith("  dense, efSearch 64 ") and lines[1].endswith("1.500")
    assert lines[2].startswith(
        "* hybrid (vectors and bm25 by reciprocal ranks, words 0.3), efSearch 64 "
    )
    assert len({len(line) for line in (header, *lines)}) == 1


def test_a_way_has_one_colour_in_both_panels(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(tune_report, "save_figure", lambda figure, path: drawn.append(figure))
    plot_tuning(TRIALS, TRIALS[2], "mrr@10", tmp_path / "a.png")
    left, right = (
        {line.get_label().split(" ")[0].strip(","): line.get_color() for line in axes.lines}
        for axes in drawn[0].axes
    )
    assert left == right and len(set(left.values())) == len(left) == 3


def test_the_picture_is_drawn_whole(tmp_path):
    plot_tuning(TRIALS, TRIALS[2], "mrr@10", tmp_path / "a.png")
    picture = matplotlib.image.imread(tmp_path / "a.png")
    assert picture[..., :3].min() < 0.5 < picture[..., :3].max()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tune_report, "can_plot", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'rag-finetune\[plot\]'"):
        plot_tuning(TRIALS, TRIALS[2], "mrr@10", tmp_path / "a.png")
