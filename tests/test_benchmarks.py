"""The benchmarks run at their smallest size and find their sides equal."""

import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import tiny_encoders
import tiny_rag
import torch

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--size", "tiny", "--repeats", "1", "--threads", "1"]
TRAIN = ["--batch_size", "2", "--n_docs", "2"]
# As on a bare GPU machine: whoever imports one of these fails.
BARE = "import runpy, sys; sys.modules.update(faiss=None, datasets=None); sys.argv = sys.argv[1:]; "
BARE += "runpy.run_path(sys.argv[0], run_name='__main__')"

# Most tests start three processes, which first import torch.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(words: list[str]) -> dict:
    folders = [str(ROOT), str(ROOT / "benchmarks")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def words_of(tmp_path):
    """The words that run a benchmark; BARE and TEXT among its options are put in their places."""
    lines = [f"the metal of row {row} melts at {row * 9} degrees" for row in range(40)]
    (tmp_path / "lines.txt").write_text("\n\n".join(lines), encoding="utf-8")

    def words_of(name: str, options: list[str]) -> list[str]:
        before = ["-c", BARE] if "BARE" in options else []
        text = ["--text", str(tmp_path / "lines.txt")] if "TEXT" in options else []
        options = [option for option in options if option not in ("BARE", "TEXT")]
        return [*before, str(ROOT / f"benchmarks/bench_{name}.py"), *SMALL, *options, *text]

    return words_of


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("generate", ["--batch_size", "2", "--spread", "BARE"]),
        ("generate", ["--batch_size", "2", "--head", "rag_token", "TEXT"]),
        ("index", ["--passages", "40"]),
        ("index", ["--passages", "40", "--dtype", "bf16", "TEXT"]),
        ("retrieve", ["--passages", "600"]),
    ],
)
def test_both_sides_are_measured_and_equal(words_of, name, options):
    found = run(words_of(name, options))
    assert found["benchmark"] == name
    plain, ours = found["seconds"]["plain"], found["seconds"]["ours"]
    assert found["ratio"] == pytest.approx(plain / ours, rel=0.01)
    assert set(found["memory"]) == {"ours", "plain"}
    assert {"machine", "versions", "sizes"} <= set(found)
    if name == "generate":
        assert found["equal_sequences"] == "2 of 2"
    if "TEXT" in options:  # its lines are the passages
        assert found["sizes"]["texts" if name == "index" else "contexts"] == "lines.txt"


@pytest.mark.parametrize(
    "options",
    [["BARE", "TEXT"], ["--head", "rag_token", "--dtype", "bf16"]],
    ids=["sequence", "token-bf16"],
)
def test_training_steps_are_measured_and_equal(words_of, options):
    found = run(words_of("train", [*TRAIN, *options]))
    assert found["benchmark"] == "train"
    for part in ("step", "whole_step"):
        plain, ours = found[part]["seconds"]["plain"], found[part]["seconds"]["ours"]
        assert found[part]["ratio"] == pytest.approx(plain / ours, rel=0.01)
    assert found["ratio"] == found["step"]["ratio"]
    assert found["equal"]["loss_apart"] <= 1e-5 and found["equal"]["gradients_apart"] <= 1e-4
    assert found["gflop"]["ours"] < found["gflop"]["plain"]  # of padding and of the last position
    assert set(found["memory"]) == {"ours", "plain"}
    if "bf16" in options:
        assert 0 < found["equal"]["bf16_loss_apart_ours"] < 0.01
    if "TEXT" in options:
        assert found["sizes"]["contexts"] == "lines.txt"
    assert {"machine", "versions", "sizes"} <= set(found)


def in_process(name: str, monkeypatch, options: list[str]) -> None:
    """Run a benchmark here, where it is to fail before it would start others."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    words = [*SMALL, "--threads", str(torch.get_num_threads()), *options]
    monkeypatch.setattr(sys, "argv", [name, *words])
    importlib.import_module(f"bench_{name}").main()


def test_training_that_differs_is_an_error(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    # What memory they take, each in a process of its own, is told by the tests above.
    monkeypatch.setattr(importlib.import_module("side_by_side"), "in_own_process", lambda *_: {})
    with pytest.raises(SystemExit, match="The sides differ"):
        in_process("train", monkeypatch, [*TRAIN, "--gradient_tolerance", "0"])


@pytest.mark.parametrize("flag", ["--dtype bf16", "--device cuda"])
def test_searches_refuse_what_only_networks_have(monkeypatch, capsys, flag):
    with pytest.raises(SystemExit, match="2"):
        in_process("retrieve", monkeypatch, flag.split())
    assert f"unrecognized arguments: {flag}" in capsys.readouterr().err


def test_the_table_of_memory_has_a_cell_for_every_size():
    words = "--sizes tiny --dtypes fp32 bf16 --n_docs 2 --lengths 32 --batch_sizes 1 2 --device cpu"
    found = run([str(ROOT / "benchmarks/memory_table.py"), *words.split()])
    assert found["benchmark"] == "memory"
    assert [(cell["batch_size"], cell["dtype"]) for cell in found["cells"]] == [
        (1, "fp32"),
        (1, "bf16"),
        (2, "fp32"),
        (2, "bf16"),
    ]
    assert all(cell["gb"] > 0 for cell in found["cells"])


def test_a_retriever_is_damaged_trained_and_measured(tmp_path):
    words = [str(ROOT / "benchmarks/damaged_retriever.py"), "--output_dir", str(tmp_path / "run")]
    found = run([*words, "--", "--max_steps", "2", "--n_docs", "5", "--warmup_steps", "0"])
    assert found["damaged"]["recall@5"] < 0.6 < found["sound"]["recall@5"]
    assert found["trained"] != found["damaged"] and found["generator_untouched"]


def test_steps_beside_a_refresh_are_told_from_the_others(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    bench = importlib.import_module("bench_refresh")
    # Steps after which a refresh is on its way: one from step 10, another from 14.
    running = {10: 10, 11: 10, 12: 10, 14: 14, 15: 14}
    now = iter(range(100))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(now)))
    clock = bench.Clock()
    for step in range(1, 18):
        given = {"_building": running.get(step), "_snapshot_step": running.get(step)}
        clock.refresh = types.SimpleNamespace(**given)
        clock.on_step_end(None, types.SimpleNamespace(global_step=step), None)
    assert {name: len(times) for name, times in clock.times.items()} == {"beside": 7, "without": 5}
    args = types.SimpleNamespace(steps=17, refresh_steps=4, batch_size=4, n_docs=5, threads=1)
    found = bench.result_of(clock, args)
    assert (found["refreshes"], found["slower_by_mean"]) == (2, 0.0)
    clock.breaks = False
    with pytest.raises(SystemExit, match="One refresh followed the other"):
        bench.result_of(clock, args)


def test_losses_are_added_one_after_the_other(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    lines = [f"{row['id']}\t{row['text']}\t{row['title']}" for row in tiny_rag.passages()]
    (data / "passages.tsv").write_text("\n".join(["id\ttext\ttitle", *lines]) + "\n")
    for name in ("train", "dev"):
        tiny_rag.questions().to_json(data / f"{name}.json", lines=True)
    encoder = tiny_encoders.save_sentence_folder(tmp_path / "encoder")
    generator = tiny_rag.save_parts(tmp_path / "parts")["generator"]
    words = [str(ROOT / "benchmarks/joint_losses.py"), "--encoder", str(encoder)]
    words += ["--generator", generator, "--data", str(data), "--output_dir", str(tmp_path / "out")]
    words += ["--batch_size", "4", "--epochs", "1", "--learning_rate_encoders", "3e-4"]
    words += ["--n_docs", "3", "--max_combined_length", "40", "--ways", "0", "3"]
    found = run(words)
    ways = ["untrained", "likelihood", "+ context encoder"]
    assert [name for name in found if name in ways] == ways
    figures = [[found[way][name] for name in ("recall@1", "recall@5", "mrr@10")] for way in ways]
    assert len({*map(tuple, figures)}) == 3
