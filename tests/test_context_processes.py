"""The context encoder on two processes, and in one that is killed while its index is made."""

import json
import time
from pathlib import Path

import context_worker
import numpy as np
import pytest
import tiny_rag
from worlds import launch, run_two, start

from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.index.build import build_index
from rag_finetune.index.store import open_index
from rag_finetune.rag.checkpoint import load_rag

BLOCKING = {"index_refresh": "blocking", "index_refresh_steps": 2}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    rag = tiny_rag.tiny_rag(tmp_path, dropout=0.0)
    tiny_rag.spread(rag.model.rag.generator, 0.7)  # else it reads all passages alike
    rag.model.rag.retriever = None
    rag.model.save_pretrained(tmp_path / "assembled")
    return tmp_path / "assembled"


def results(output: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(output.glob("result-*.json"))]


def require_one_index(output: Path, work: Path) -> None:
    """The finished folder's index is a fresh build by the encoder that it names."""
    index = open_index(output / "index")
    encoder = load_context_encoder(str(output / "index/context_encoder"), 64)
    assert encoder.fingerprint() == index.manifest.fingerprint
    fresh = build_index(tiny_rag.passages(), encoder, work / f"fresh-{output.name}")
    rows = np.arange(20)
    assert np.array_equal(index.vectors_at(rows), fresh.vectors_at(rows))
    assert not (output / "index_versions").exists()
    assert load_rag(output).retriever is not None


def test_two_processes_give_the_gradients_of_one_and_share_a_refresh(checkpoint, tmp_path):
    options = {**BLOCKING, "retriever_loss": "contrastive:0.5"}
    one = context_worker.run(
        checkpoint, tmp_path / "one", per_device_train_batch_size=16, **options
    )
    sizes = {"per_device_train_batch_size": 8}  # passages are compared within a micro-batch
    launch(context_worker.__file__, checkpoint, tmp_path / "two", json.dumps(options | sizes))
    both = results(tmp_path / "two")
    assert [found["world_size"] for found in both] == [2, 2]
    assert both[0]["encoder"] == both[1]["encoder"]  # no process has drifted
    for name in ("loss", "grad_norm", "grad_norm_context_encoder"):
        assert both[0][name] == pytest.approx(one[name], rel=1e-2), name
    assert both[0]["index_staleness"] == one["index_staleness"] == [1, 0, 1, 2]
    assert both[0]["refreshes"] == 2
    require_one_index(tmp_path / "two", tmp_path)


def test_two_processes_change_to_a_background_index_after_the_same_step(checkpoint, tmp_path):
    options = {"index_refresh_steps": 1, "wait": True, "per_device_train_batch_size": 4}
    options["max_steps"] = 2
    run_two(tmp_path, context_worker.run, checkpoint, tmp_path / "two", **options)
    both = results(tmp_path / "two")
    assert [found["world_size"] for found in both] == [2, 2]
    assert both[0]["index_staleness"] == both[1]["index_staleness"] == [1, 1]
    assert both[0]["encoder"] == both[1]["encoder"]
    require_one_index(tmp_path / "two", tmp_path)


def killed(checkpoint: Path, output: Path, options: dict, moment: str) -> None:
    """Begin a training; kill it once a path of this pattern is there."""
    log = checkpoint / "log"
    process = start(log, context_worker.run, checkpoint, output, settings={}, **options)
    deadline = time.monotonic() + 240
    try:
        while not any(output.glob(moment)):
            assert process.is_alive() and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.005)
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("way", ["blocking", "background"])
def test_a_run_killed_during_a_refresh_goes_on_without_a_mix(checkpoint, tmp_path, way):
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None}
    options |= {"index_refresh": way, "index_refresh_steps": 2, "max_steps": 5}
    options |= {"wait": way == "background"}  # so that an index is there after one step
    output = tmp_path / "run"
    # The second refresh: the run has changed its index once.
    moment = "..step-4-*" if way == "blocking" else ".step-4-*.snapshot/context_encoder"
    killed(checkpoint, output, options, f"index_versions/{moment}")
    last = max(
        output.glob("checkpoint-*/trainer_state.json"), key=lambda p: int(p.parent.name[11:])
    )
    logged = json.loads(last.read_text())["log_history"]
    assert any("index_refresh_seconds" in entry for entry in logged)
    resumed = context_worker.run(checkpoint, output, **options, resume=str(last.parent))
    require_one_index(output, tmp_path)
    if way == "blocking":  # the same steps have the same index
        whole = context_worker.run(checkpoint, tmp_path / "whole", **options)
        assert resumed["encoder"] == whole["encoder"]
        bits = [
            (folder / "index/dense.faiss").read_bytes() for folder in (tmp_path / "whole", output)
        ]
        assert bits[0] == bits[1]


def test_a_refresh_ends_with_the_training_that_was_killed(checkpoint, tmp_path):
    options = {"index_refresh_steps": 1, "max_steps": 100000}
    killed(checkpoint, tmp_path / "run", options, "index_versions/*.log")
    deadline = time.monotonic() + 60
    target = str(tmp_path / "run" / "index_versions")
    while any(target in command for command in commands()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [command for command in commands() if target in command]


def commands() -> list[str]:
    """What all processes were started with."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace"))
        except OSError:  # it has just ended
            continue
    return found
