"""Refreshes of the index: in the background, waited for, failing; the rest is in training."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_rag
import torch
from transformers import TrainerControl, TrainerState

from rag_finetune.index.update import load_own_encoder
from rag_finetune.retrieval.reranked import RerankedSearcher
from rag_finetune.training import index_refresh
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.index_refresh import (
    RUNNING,
    BackgroundBuild,
    IndexRefresh,
    _environment,
    use_index,
)


def refresh_of(folder: Path, **options):
    """A refresh of a tiny model's index, its encoder moved, and what it logs."""
    rag = tiny_rag.tiny_rag(folder)
    encoder = load_own_encoder(rag.retriever.index.folder)
    move(encoder)
    args = RagTrainingArguments(
        output_dir=str(folder / "run"),
        trainable=["context_encoder"],
        eval_strategy="no",
        **({"index_refresh_steps": 2} | options),
    )
    logs: list[dict[str, float]] = []
    return IndexRefresh(rag.retriever, encoder, args, logs.append), logs


def move(encoder) -> None:
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


def step_ends(refresh, step: int, *, last: bool = False) -> None:
    control = TrainerControl(should_training_stop=last)
    refresh.on_step_end(refresh.args, TrainerState(global_step=step), control)


def names(refresh) -> list[str]:
    return sorted(path.name for path in refresh.versions.folder.glob("*"))


def wait_for(build: BackgroundBuild) -> int:
    deadline = time.monotonic() + 120
    while build.poll() == RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return build.poll()


def test_a_blocking_refresh_comes_every_so_many_steps_and_not_at_the_last(tmp_path):
    refresh, logs = refresh_of(tmp_path, index_refresh="blocking")
    first = refresh.retriever.index
    step_ends(refresh, 1)
    assert refresh.retriever.index is first
    step_ends(refresh, 2)
    index = refresh.retriever.index
    assert index.manifest.fingerprint == refresh.encoder.fingerprint()
    assert refresh.retriever.searcher.index is index
    assert (refresh.index_step, names(refresh)) == (2, [index.folder.name])
    move(refresh.encoder)
    step_ends(refresh, 4, last=True)
    assert refresh.retriever.index is index
    refresh.refresh_last(4)
    assert refresh.retriever.index.manifest.fingerprint == refresh.encoder.fingerprint()
    assert (refresh.index_step, names(refresh)) == (4, [refresh.retriever.index.folder.name])
    assert [entry["index_staleness"] for entry in logs] == [0, 0]
    assert all(entry["index_refresh_seconds"] > 0 for entry in logs)
    refresh.refresh_last(5)
    assert len(logs) == 2  # it was that encoder's already


def test_none_leaves_the_index_as_it_was_to_the_end(tmp_path):
    refresh, logs = refresh_of(tmp_path, index_refresh="none", index_refresh_steps=None)
    first = refresh.retriever.index
    for step in (500, 1000):
        step_ends(refresh, step)
    refresh.refresh_last(1000)
    assert refresh.retriever.index is first
    assert not logs


@pytest.mark.slow
def test_a_background_refresh_is_taken_between_steps_and_training_never_waits(tmp_path):
    refresh, logs = refresh_of(tmp_path)
    first = refresh.retriever.index
    fingerprint = refresh.encoder.fingerprint()
    step_ends(refresh, 2)
    build = refresh._build
    assert refresh.retriever.index is first
    move(refresh.encoder)  # training goes on
    step_ends(refresh, 3)
    assert refresh.retriever.index is first
    step_ends(refresh, 4)  # due, and one is on its way
    assert refresh._build is build
    assert wait_for(build) == 0, build.log.read_text()
    step_ends(refresh, 5)
    assert refresh.retriever.index.manifest.fingerprint == fingerprint
    assert refresh.retriever.index.manifest.encoder["name"] == "context_encoder"
    assert refresh.index_step == 2
    assert logs[0]["index_staleness"] == 3
    assert refresh._build not in (None, build)  # the one that was due
    refresh.stop()
    assert build._process.returncode == 0


@pytest.mark.slow
def test_a_refresh_that_fails_stops_the_run_and_names_its_log(tmp_path):
    refresh, _ = refresh_of(tmp_path)
    with torch.no_grad():
        next(refresh.encoder.model.parameters()).fill_(float("nan"))
    step_ends(refresh, 2)
    log = refresh._build.log
    assert wait_for(refresh._build) == 1
    with pytest.raises(
        ChildProcessError, match=rf"{log}: .*of step 2, ended with exit code 1: .*not finite"
    ):
        step_ends(refresh, 3)
    assert log.is_file()
    assert refresh._build is None
    assert refresh.index_step == 0


def test_a_refresh_that_is_killed_stops_the_run(tmp_path):
    refresh, _ = refresh_of(tmp_path)
    step_ends(refresh, 2)
    refresh._build._process.kill()
    refresh._build._process.wait()
    with pytest.raises(ChildProcessError, match="ended with exit code -9: it said nothing"):
        step_ends(refresh, 3)


def test_a_refresh_that_is_killed_with_the_run_does_not_keep_it_from_its_checkpoint(tmp_path):
    refresh, _ = refresh_of(tmp_path)
    step_ends(refresh, 2)
    refresh._build._process.terminate()
    refresh._build._process.wait()
    step_ends(refresh, 3, last=True)
    assert refresh._build is None
    assert refresh.index_step == 0


def test_a_run_that_ends_ends_its_refresh(tmp_path):
    refresh, _ = refresh_of(tmp_path)
    step_ends(refresh, 2)
    process, snapshot = refresh._build._process, refresh._build._snapshot
    assert snapshot.is_dir()
    refresh.stop()
    assert process.poll() is not None
    assert not snapshot.exists()


def test_a_refresh_is_no_process_of_the_launcher_and_takes_the_threads_that_are_left(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(index_refresh.torch, "get_num_threads", lambda: 4)
    found = _environment(torch.device("cpu"))
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_CPU"} & set(found)
    assert found["OMP_NUM_THREADS"] == "2"
    assert found["CUDA_VISIBLE_DEVICES"] == ""
    assert found["PATH"] == os.environ["PATH"]
    monkeypatch.setattr(index_refresh.torch, "get_num_threads", lambda: 2)
    assert _environment(torch.device("cpu"))["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # two train, with two threads each
    assert _environment(torch.device("cpu"))["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr(index_refresh.torch, "get_num_threads", lambda: 6)
    assert _environment(torch.device("cpu"))["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("processes", "visible", "expected"),
    [("1", "", "1"), ("2", "", "2"), ("3", "", "0"), ("2", "4,6,7", "7"), ("3", "4,6,7", "4")],
)
def test_a_refresh_takes_a_gpu_that_trains_nothing_if_there_is_one(
    monkeypatch, processes, visible, expected
):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(index_refresh.torch.cuda, "device_count", lambda: 3)
    assert _environment(torch.device("cuda:0"))["CUDA_VISIBLE_DEVICES"] == expected


def test_a_reranked_search_stays_one(tmp_path):
    refresh, _ = refresh_of(tmp_path)
    retriever, index = refresh.retriever, tiny_rag.tiny_index(tmp_path / "other")
    reranked = RerankedSearcher(retriever.searcher, reranker=sys, top=7)
    retriever.searcher = reranked
    use_index(retriever, index)
    assert isinstance(retriever.searcher, RerankedSearcher)
    assert (retriever.searcher.reranker, retriever.searcher.top) == (sys, 7)
    assert retriever.searcher.index is index


def test_a_refresh_comes_where_the_overlap_falls_below_its_bound(tmp_path):
    options = {"index_refresh": "blocking", "index_refresh_steps": None}
    refresh, logs = refresh_of(tmp_path, **options, index_refresh_overlap=0.99)
    first, asked = refresh.retriever.index, np.random.default_rng(0).normal(size=(6, 16))
    asked = asked.astype(np.float32)
    step_ends(refresh, 500)  # the bound stands alone
    refresh.measure_overlap(asked, 9)  # not one of the steps at which it is measured
    step_ends(refresh, 10)
    assert (refresh.retriever.index, logs) == (first, [])
    refresh.measure_overlap(asked, 10)
    step_ends(refresh, 11)
    assert refresh.retriever.index is not first
    assert logs[0]["index_overlap"] < 0.99
    assert (refresh.index_step, len(logs)) == (11, 2)
    second = refresh.retriever.index
    refresh.measure_overlap(asked, 20)
    step_ends(refresh, 21)
    assert logs[2] == {"index_overlap": 1.0}
    assert refresh.retriever.index is second
