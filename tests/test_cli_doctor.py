"""`rag-finetune doctor`: a table, and exit code 1 where something is known not to work."""

import re
from importlib import metadata

import pytest
from tiny_job import run, usage_error_of

from rag_finetune.cli.doctor import Finding, findings_table, threads_available


def forged(monkeypatch, **versions):
    """Let packages seem to be installed in other versions; None for not at all."""
    real = metadata.version
    wanted = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name):
        if name in wanted and wanted[name] is None:
            raise metadata.PackageNotFoundError(name)
        return wanted.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_the_table_shows_what_is_here_and_all_is_well():
    done = run("doctor")
    assert done.code == 0, done.out
    assert "Nothing here is known not to work." in done.out
    for name in ("python", "transformers", "torch", "faiss-cpu", "threads", "memory", "disk"):
        assert re.search(rf"^{name} +(ok|note) ", done.out, re.MULTILINE), name
    assert re.search(r"^faiss build +ok +OPTIMIZE", done.out, re.MULTILINE)
    assert re.search(r"^openmp +\w+ +.*GNU", done.out, re.MULTILINE)


def test_a_version_out_of_range_ends_with_1_and_says_what_to_install(monkeypatch):
    forged(monkeypatch, transformers="4.46.0")
    done = run("doctor")
    assert done.code == 1
    assert re.search(r"^transformers +BAD +4\.46\.0; needed: <6,>=5\.23", done.out, re.MULTILINE)
    assert '→ pip install "transformers<6,>=5.23"' in done.out
    assert done.out.endswith("1 known not to work.\n")


def test_a_known_bad_pair_ends_with_1_and_says_what_to_do(monkeypatch):
    forged(monkeypatch, faiss_gpu="1.7.2")
    done = run("doctor")
    assert done.code == 1
    assert "faiss-cpu 1.15.1 with faiss-gpu 1.7.2: both install the module `faiss`" in done.out
    assert "→ pip uninstall faiss-cpu faiss-gpu" in done.out


def test_it_takes_no_flags_of_other_commands():
    assert "unrecognised flag --index" in usage_error_of("doctor", "--index", "x")


def test_a_remedy_stands_below_its_finding():
    rows = [Finding("torch", "2.13"), Finding("faiss-cpu", "none", "BAD", "install it")]
    assert findings_table(rows).splitlines() == [
        "torch      ok    2.13",
        "faiss-cpu  BAD   none",
        "                 → install it",
    ]


@pytest.mark.skipif(not hasattr(__import__("os"), "sched_setaffinity"), reason="not Linux")
def test_processors_are_those_that_this_process_may_use():
    import os

    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert threads_available() == 1
    finally:
        os.sched_setaffinity(0, allowed)
