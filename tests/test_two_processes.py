"""Two processes are really two, and give what one gives."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tiny_rag
import torch
import two_process_worker
from conftest import ROOT
from tiny_training import sharp_rag
from worlds import LAUNCH, environment, launch

from rag_finetune.rag.checkpoint import load_rag, place_index, save_rag

pytestmark = pytest.mark.timeout(600)  # each launch imports torch three times


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One checkpoint trained and evaluated in three layouts, by name."""
    folder = tmp_path_factory.mktemp("layouts")
    tiny_rag.tiny_rag(folder, dropout=0.0)
    layouts = {
        "16x1x1": {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 4},
        "4x4x1": {
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 4,
            "per_device_eval_batch_size": 8,
        },
        "4x2x2": {
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "per_device_eval_batch_size": 4,
        },
    }
    found = {}
    for name, options in layouts.items():
        output = folder / name
        if name.endswith("x2"):
            launch(two_process_worker.__file__, folder / "assembled", output, json.dumps(options))
        else:
            two_process_worker.run(folder / "assembled", output, **options)
        found[name] = json.loads((output / "result.json").read_text()) | {"folder": output}
    return found


def test_the_world_has_two_processes_where_two_are_launched(runs):
    sizes = {name: run["world_size"] for name, run in runs.items()}
    assert sizes == {"16x1x1": 1, "4x4x1": 1, "4x2x2": 2}


def generator_weights(folder: Path) -> torch.Tensor:
    parameters = load_rag(folder, with_index=False).model.generator.parameters()
    return torch.nn.utils.parameters_to_vector(parameters).detach()


def test_layouts_give_the_same_losses_gradient_norms_and_weights(runs):
    first = runs["16x1x1"]
    start = generator_weights(first["folder"].parent / "assembled")
    update = generator_weights(first["folder"]) - start
    assert update.norm() > 0
    for name, run in runs.items():
        assert run["loss"] == pytest.approx(first["loss"], rel=1e-4), name
        assert run["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4), name
        # Not to the last bit: Adam divides by the gradient's size, also where that is noise.
        found = generator_weights(run["folder"]) - start
        assert (found - update).norm() <= 0.02 * update.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("negatives", ["all", "in_batch"])
def test_the_retrievers_losses_are_those_of_one_process(tmp_path, negatives):
    rag = sharp_rag(tmp_path)
    save_rag(rag.model, rag.tokenizer, tmp_path / "sharp")
    place_index(rag.retriever.index, tmp_path / "sharp", "link", ours=False)
    options = {
        "retriever_loss": "lsr:0.5,contrastive:0.1",
        "contrastive_negatives": negatives,
        "likelihood_weight": 0.0,
        "trainable": ["question_encoder"],
        "predict_with_generate": False,
    }
    one, two = tmp_path / "one", tmp_path / "two"
    two_process_worker.run(tmp_path / "sharp", one, **options, per_device_train_batch_size=16)
    options["per_device_train_batch_size"] = 8
    launch(two_process_worker.__file__, tmp_path / "sharp", two, json.dumps(options))
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (one, two))
    assert (first["world_size"], second["world_size"]) == (1, 2)
    assert [len(terms) for terms in second["terms"]] == [3, 3, 3]
    for key in ("loss", "grad_norm"):
        assert second[key] == pytest.approx(first[key], rel=1e-4)
    for ours, theirs in zip(second["terms"], first["terms"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    start, *ends = (weights_of(folder) for folder in (tmp_path / "sharp", one, two))
    for name, before in start.items():
        moved, again = (end[name] - before for end in ends)
        if not name.startswith("rag.question_encoder."):
            assert not moved.any() and not again.any(), name
    update, found = (
        torch.cat([(end[name] - before).flatten() for name, before in start.items()])
        for end in ends
    )
    assert update.norm() > 0
    assert (found - update).norm() <= 0.02 * update.norm()


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    state = load_rag(folder, with_index=False).model.state_dict()
    return {name: tensor.double() for name, tensor in state.items()}


def test_evaluation_counts_each_of_21_questions_once_on_one_and_two_processes(runs):
    first = runs["16x1x1"]
    for name, run in runs.items():
        for part, prefix in (("before", "eval"), ("metrics", "test")):
            assert run[part][f"{prefix}_n_examples"] == 21, name
        for key in ("eval_loss", "eval_exact_match", "eval_f1", "eval_recall@5"):
            assert run["before"][key] == pytest.approx(first["before"][key], rel=1e-5), (name, key)
        loss = first["metrics"]["test_loss"]
        assert run["metrics"]["test_loss"] == pytest.approx(loss, rel=1e-4), name
        assert len(run["predictions"]) == 21
        assert run["predictions"] == first["predictions"], name


def cli_train(folder: Path, output: Path, *flags: str) -> list[str]:
    questions = [
        {key: row[key] for key in ("question", "answers", "positive_ids")}
        for row in tiny_rag.questions(16)
    ]
    (folder / "train.json").write_text(json.dumps(questions))
    return [
        *("-m", "rag_finetune", "train", "--train_file", str(folder / "train.json")),
        *("--model_name_or_path", str(folder / "assembled"), "--output_dir", str(output)),
        *("--max_target_length", "8", "--validation_split", "0", "--logging_steps", "1"),
        *("--disable_tqdm", "true", "--use_cpu", *flags),
    ]


def test_the_command_trains_on_two_processes_and_leaves_a_whole_folder(tmp_path):
    tiny_rag.tiny_rag(tmp_path)
    output = tmp_path / "run"
    command = cli_train(tmp_path, output, "--max_steps", "2")
    if not torch.accelerator.is_available():
        command.remove("--use_cpu")  # found out, so that it cannot be forgotten
    printed = launch(*command)
    assert "2 process(es)" in printed
    assert printed.count("finished after 2 steps") == 1
    assert (output / "train_results.json").is_file()
    assert load_rag(output).retriever is not None


def test_processes_that_do_not_see_each_other_are_an_error(tmp_path, monkeypatch):
    from rag_finetune.training.arguments import RagTrainingArguments

    args = RagTrainingArguments(output_dir=str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"this one is alone.*accelerate launch --multi_gpu"):
        args._check_world()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_to_one_process_ends_both(tmp_path, how):
    tiny_rag.tiny_rag(tmp_path)
    output = tmp_path / "run"
    command = [*LAUNCH, *cli_train(tmp_path, output, "--max_steps", "100000")]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=log, stderr=log)
    try:
        workers = wait_for_training(process, tmp_path / "log")
        os.kill(workers[1], how)
        code = process.wait(timeout=120)
    finally:
        process.kill()
    deadline = time.monotonic() + 60
    while any(is_alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(is_alive(worker) for worker in workers)
    assert code != 0
    if how == signal.SIGTERM:
        checkpoint = max(output.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
        assert (checkpoint / "trainer_state.json").is_file()
        assert load_rag(checkpoint).retriever is not None


def wait_for_training(process: subprocess.Popen, log: Path) -> list[int]:
    """Process ids of the two workers, once losses are logged."""
    deadline = time.monotonic() + 120
    while ":  loss " not in log.read_text():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    workers = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_text().split("\0")
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            is_worker = parent == process.pid and "rag_finetune" in words
            workers += [int(entry.name)] if is_worker else []
    assert len(workers) == 2
    return workers


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
