"""Two processes build one index, the same as one does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import killed_builds
import numpy as np
import pytest
import tiny_job
import torch
from conftest import ROOT
from worlds import LAUNCH, environment

from rag_finetune.files import write_jsonl
from rag_finetune.index.processes import World, join_world
from rag_finetune.index.store import open_index

pytestmark = pytest.mark.timeout(600)  # each launch imports torch three times


def words(folder: Path, output: Path) -> list[str]:
    """The command, on 5,000 passages: three blocks."""
    tiny_job.write_inputs(folder)
    rows = killed_builds.passages(5000)
    keys = ("id", "title", "text")
    write_jsonl(folder / "passages.jsonl", [{key: row[key] for key in keys} for row in rows])
    return tiny_job.index_words(folder, output)


def test_alone_there_is_nobody_to_wait_for(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = join_world()
    assert (world, world.is_main) == (World(0, 1, None), True)
    world.wait()
    world.leave()
    assert not World(1, 2).is_main


def test_two_processes_give_what_one_gives(tmp_path):
    command = words(tmp_path, tmp_path / "two")
    done = subprocess.run(
        [*LAUNCH, "-m", "rag_finetune", *command],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 processes share the encoding." in done.stdout
    assert done.stdout.count("exact index of 5,000 passages") == 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the two have: the last bits hang on it
    tiny_job.ok(*words(tmp_path, tmp_path / "one"))
    torch.set_num_threads(threads)
    found = [open_index(tmp_path / name) for name in ("one", "two")]
    rows = np.arange(5000)
    assert np.array_equal(found[0].vectors_at(rows), found[1].vectors_at(rows))
    assert found[0].manifest == found[1].manifest
    for name in ("dense.faiss", "passages/data-00000-of-00001.arrow"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_a_process_that_dies_ends_both_and_another_try_finishes(tmp_path):
    command = words(tmp_path, tmp_path / "index")
    rows = killed_builds.passages(20_000)
    write_jsonl(tmp_path / "passages.jsonl", rows)
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [*LAUNCH, "-m", "rag_finetune", *command], env=environment(), cwd=ROOT, stderr=log
    )
    journal = tmp_path / ".index.building" / "journal-1.jsonl"
    deadline = time.monotonic() + 200
    while not journal.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(worker(process.pid, "1"), signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    assert not (tmp_path / "index").exists()
    done = tiny_job.ok(*command)
    assert "resuming: " in done.out
    assert len(open_index(tmp_path / "index")) == 20_000


def worker(launcher: int, rank: str) -> int:
    """The process that a launcher started with this rank."""
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            settings = (entry / "environ").read_text().split("\0")
        except (OSError, IndexError, ValueError):
            continue
        if parent == launcher and f"RANK={rank}" in settings:
            return int(entry.name)
    raise ProcessLookupError(rank)


def test_a_stray_world_size_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match=r"^WORLD_SIZE is two, .*unset WORLD_SIZE"):
        join_world()


def test_a_stray_world_size_is_named():
    # In a process of its own: joining sets variables that later tests would inherit.
    code = "from rag_finetune.index.processes import join_world; join_world()"
    alone = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in alone}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: WORLD_SIZE is 2, ") and "unset WORLD_SIZE" in last
