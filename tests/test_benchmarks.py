"""The benchmarks run at their smallest size and find their sides equal.

Two of them as a user runs them, each with processes of its own for the memory of its sides; the
others here, and what they start are forks of a server that has imported everything.
"""

import importlib
import json
import os
import runpy
import subprocess
import sys
import types
from pathlib import Path
from unittest.mock import patch

import pytest
import tiny_encoders
import tiny_rag
import torch
import worlds

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--size", "tiny", "--repeats", "1", "--threads", "1"]
TRAIN = ["--batch_size", "2", "--n_docs", "2"]
# As on a bare GPU machine: whoever imports one of these fails.
BARE = "import runpy, sys; sys.modules.update(faiss=None, datasets=None); sys.argv = sys.argv[1:]; "
BARE += "runpy.run_path(sys.argv[0], run_name='__main__')"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run_script(script: str, words: list[str]) -> None:
    """What a process of a benchmark does; it starts in a fork, where nothing was computed."""
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    with patch.object(sys, "argv", [script, *words]):
        runpy.run_path(script, run_name="__main__")


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a benchmark, by the name of its script: what its last line says.

    BARE and TEXT among its options are put in their places; with BARE its processes are real.
    """
    lines = [f"the metal of row {row} melts at {row * 9} degrees" for row in range(40)]
    (tmp_path / "lines.txt").write_text("\n\n".join(lines), encoding="utf-8")
    started: list[Path] = []

    def fork(command: list[str], **_) -> subprocess.CompletedProcess:
        assert command[0] == sys.executable
        started.append(tmp_path / f"{len(started)}.log")
        process = worlds.start(started[-1], run_script, *command[1:2], command[2:], settings={})
        process.join()
        said = started[-1].read_text(encoding="utf-8")
        return subprocess.CompletedProcess(command, process.exitcode, said, said)

    def run(name: str, options: list[str]) -> dict:
        script = str(ROOT / f"benchmarks/{name}.py")
        text = ["--text", str(tmp_path / "lines.txt")] if "TEXT" in options else []
        words = [option for option in options if option not in ("BARE", "TEXT")] + text
        if "BARE" in options:
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), f"{ROOT}/benchmarks"]),
            }
            bare = [sys.executable, "-c", BARE, script, *words]
            done = subprocess.run(bare, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            return json.loads(done.stdout.splitlines()[-1])
        monkeypatch.setattr(subprocess, "run", fork)
        in_process(name, monkeypatch, words)
        return json.loads(capfd.readouterr().out.splitlines()[-1])

    return run


def in_process(name: str, monkeypatch, words: list[str]) -> None:
    """Run a benchmark here; the threads that it takes are given back: sums depend on them."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", [name, *words])
    threads = torch.get_num_threads()
    try:
        importlib.import_module(name).main()
    finally:
        torch.set_num_threads(threads)


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
def test_both_sides_are_measured_and_equal(run, name, options):
    found = run(f"bench_{name}", [*SMALL, *options])
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
def test_training_steps_are_measured_and_equal(run, options):
    found = run("bench_train", [*SMALL, *TRAIN, *options])
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


def test_training_that_differs_is_an_error(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    # What memory they take, each in a process of its own, is told by the tests above.
    monkeypatch.setattr(importlib.import_module("side_by_side"), "in_own_process", lambda *_: {})
    with pytest.raises(SystemExit, match="The sides differ"):
        in_process("bench_train", monkeypatch, [*SMALL, *TRAIN, "--gradient_tolerance", "0"])


@pytest.mark.parametrize("flag", ["--dtype bf16", "--device cuda"])
def test_searches_refuse_what_only_networks_have(monkeypatch, capsys, flag):
    with pytest.raises(SystemExit, match="2"):
        in_process("bench_retrieve", monkeypatch, [*SMALL, *flag.split()])
    assert f"unrecognized arguments: {flag}" in capsys.readouterr().err


def test_the_table_of_memory_has_a_cell_for_every_size(run):
    words = "--sizes tiny --dtypes fp32 bf16 --n_docs 2 --lengths 32 --batch_sizes 1 2 --device cpu"
    found = run("memory_table", words.split())
    assert found["benchmark"] == "memory"
    assert [(cell["batch_size"], cell["dtype"]) for cell in found["cells"]] == [
        (1, "fp32"),
        (1, "bf16"),
        (2, "fp32"),
        (2, "bf16"),
    ]
    assert all(cell["gb"] > 0 for cell in found["cells"])


@pytest.mark.parametrize("loss", [[], ["--retriever_loss", "emdr2"]])
def test_a_retriever_is_damaged_trained_and_measured(run, tmp_path, loss):
    words = ["--output_dir", str(tmp_path / "run"), "--", "--max_steps", "2", "--n_docs", "5"]
    words += loss
    found = run("damaged_retriever", [*words, "--warmup_steps", "0"])
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


def test_losses_are_added_one_after_the_other(run, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    lines = [f"{row['id']}\t{row['text']}\t{row['title']}" for row in tiny_rag.passages()]
    (data / "passages.tsv").write_text("\n".join(["id\ttext\ttitle", *lines]) + "\n")
    for name in ("train", "dev"):
        tiny_rag.questions().to_json(data / f"{name}.json", lines=True)
    encoder = tiny_encoders.save_sentence_folder(tmp_path / "encoder")
    generator = tiny_rag.save_parts(tmp_path / "parts")["generator"]
    words = ["--encoder", str(encoder), "--generator", generator, "--data", str(data)]
    words += ["--output_dir", str(tmp_path / "out")]
    words += ["--batch_size", "4", "--epochs", "1", "--learning_rate_encoders", "3e-4"]
    words += ["--n_docs", "3", "--max_combined_length", "40", "--ways", "0", "3"]
    found = run("joint_losses", words)
    ways = ["untrained", "likelihood", "+ context encoder"]
    assert [name for name in found if name in ways] == ways
    figures = [[found[way][name] for name in ("recall@1", "recall@5", "mrr@10")] for way in ways]
    assert len({*map(tuple, figures)}) == 3
