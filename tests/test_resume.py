"""Which checkpoint a training goes on from."""

import types

import pytest

from rag_finetune.training.resume import check_output, check_resumable, latest_checkpoint


def test_the_latest_checkpoint_is_the_last_whole_one(tmp_path):
    for step in (5, 20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for name in ("checkpoint-5", "checkpoint-20", "checkpoint-x", "old-checkpoint-50"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "trainer_state.json").write_text("{}")
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-20"


def test_where_there_is_no_whole_checkpoint_it_is_said(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no whole checkpoint to resume from\. Start anew"):
        latest_checkpoint(tmp_path)


def test_what_a_training_needs_to_go_on_is_looked_for(tmp_path):
    for name in ("trainer_state.json", "optimizer.pt"):
        with pytest.raises(FileNotFoundError, match=f"not a checkpoint .*, {name} is missing"):
            check_resumable(tmp_path)
        (tmp_path / name).write_text("{}")
    check_resumable(tmp_path)


def test_it_is_said_from_where_and_what_is_left_aside(tmp_path, capsys):
    for step, name in ((5, "trainer_state.json"), (10, "trainer_state.json"), (15, "rng.pth")):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for file in (name, "optimizer.pt"):
            (folder / file).write_text("{}")
    args = types.SimpleNamespace(output_dir=str(tmp_path), resume_from_checkpoint="latest")
    check_output(args)
    said = f"Going on from {tmp_path}/checkpoint-10 (checkpoint-15: not written to the end, "
    assert capsys.readouterr().out.startswith(said)
    args.resume_from_checkpoint = str(tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-15" / "trainer_state.json").write_text("{}")
    check_output(args)
    assert capsys.readouterr().out == f"Going on from {tmp_path}/checkpoint-5.\n"
