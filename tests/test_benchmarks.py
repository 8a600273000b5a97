"""The benchmarks run at their smallest size and find their sides equal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--size", "tiny", "--repeats", "1", "--threads", "1"]
TRAIN = ["--batch_size", "2", "--n_docs", "2"]
# As on a bare GPU machine: whoever imports one of these fails.
BARE = "import runpy, sys; sys.modules.update(faiss=None, datasets=None); sys.argv = sys.argv[1:]; "
BARE += "runpy.run_path(sys.argv[0], run_name='__main__')"

# Each test starts three processes or more, which first import torch.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(words: list[str]) -> dict:
    folders = [str(ROOT), str(ROOT / "benchmarks")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("generate", ["--batch_size", "2", "--spread"]),
        ("generate", ["--batch_size", "2", "--head", "rag_token"]),
        ("index", ["--passages", "40"]),
        ("index", ["--passages", "40", "--dtype", "bf16"]),
        ("retrieve", ["--passages", "600"]),
    ],
)
def test_both_sides_are_measured_and_equal(name, options):
    found = run([str(ROOT / f"benchmarks/bench_{name}.py"), *SMALL, *options])
    assert found["benchmark"] == name
    plain, ours = found["seconds"]["plain"], found["seconds"]["ours"]
    assert found["ratio"] == pytest.approx(plain / ours, rel=0.01)
    assert set(found["memory"]) == {"ours", "plain"}
    assert {"machine", "versions", "sizes"} <= set(found)


@pytest.mark.parametrize(
    "options", [[], ["--head", "rag_token"], ["--dtype", "bf16"]], ids=["sequence", "token", "bf16"]
)
def test_training_steps_are_measured_and_equal(options):
    script = str(ROOT / "benchmarks/bench_train.py")
    found = run([script, *SMALL, *TRAIN, *options])
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
    assert {"machine", "versions", "sizes"} <= set(found)


def test_training_that_differs_is_an_error():
    script = str(ROOT / "benchmarks/bench_train.py")
    with pytest.raises(AssertionError, match="The sides differ"):
        run([script, *SMALL, *TRAIN, "--gradient_tolerance", "0"])


@pytest.mark.parametrize("flag", ["--dtype bf16", "--device cuda"])
def test_searches_refuse_what_only_networks_have(flag):
    script = str(ROOT / "benchmarks/bench_retrieve.py")
    with pytest.raises(AssertionError, match=f"unrecognized arguments: {flag}"):
        run([script, *SMALL, *flag.split()])


def test_training_and_decoding_are_measured_without_faiss_and_datasets():
    script = str(ROOT / "benchmarks/bench_generate.py")
    found = run(["-c", BARE, script, *SMALL, "--batch_size", "1", "--new_tokens", "4"])
    assert found["equal_sequences"] == "1 of 1"
    script = str(ROOT / "benchmarks/bench_train.py")
    found = run(["-c", BARE, script, *SMALL, *TRAIN])
    assert found["equal"]["loss_apart"] <= 1e-5


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


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("generate", ["--batch_size", "2"]),
        ("train", TRAIN),
        ("index", ["--passages", "40"]),
    ],
)
def test_real_passages_are_read_line_by_line(tmp_path, name, options):
    lines = [f"the metal of row {row} melts at {row * 9} degrees" for row in range(40)]
    (tmp_path / "lines.txt").write_text("\n\n".join(lines), encoding="utf-8")
    script, text = str(ROOT / f"benchmarks/bench_{name}.py"), str(tmp_path / "lines.txt")
    sizes = run([script, *SMALL, *options, "--text", text])["sizes"]
    assert sizes["texts" if name == "index" else "contexts"] == "lines.txt"
