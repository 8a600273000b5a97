"""The benchmarks run at their smallest size and find their sides equal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--size", "tiny", "--repeats", "1", "--threads", "1"]
# As on a bare GPU machine: whoever imports one of these fails.
BARE = "import runpy, sys; sys.modules.update(faiss=None, datasets=None); sys.argv = sys.argv[1:]; "
BARE += "runpy.run_path(sys.argv[0], run_name='__main__')"

pytestmark = pytest.mark.slow


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


def test_decoding_is_measured_without_faiss_and_datasets():
    script = str(ROOT / "benchmarks/bench_generate.py")
    found = run(["-c", BARE, script, *SMALL, "--batch_size", "1", "--new_tokens", "4"])
    assert found["equal_sequences"] == "1 of 1"


def test_real_passages_are_read_line_by_line(tmp_path):
    lines = [f"the metal of row {row} melts at {row * 9} degrees" for row in range(40)]
    (tmp_path / "lines.txt").write_text("\n\n".join(lines), encoding="utf-8")
    more = ["--text", str(tmp_path / "lines.txt")]
    generate = [str(ROOT / "benchmarks/bench_generate.py"), *SMALL, "--batch_size", "2", *more]
    assert run(generate)["sizes"]["contexts"] == "lines.txt"
    index = [str(ROOT / "benchmarks/bench_index.py"), *SMALL, "--passages", "40", *more]
    assert run(index)["sizes"]["texts"] == "lines.txt"
