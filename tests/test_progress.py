"""The lines that a training run shows."""

import pytest
import tiny_rag
from tiny_training import train_tiny
from transformers import PrinterCallback, ProgressCallback
from transformers.utils import logging

from rag_finetune.training.progress import ProgressLines, log_line


def test_a_log_is_a_line_with_the_norm_of_each_part():
    logs = {
        "loss": 1.23456,
        "grad_norm": 3.21,
        "grad_norm_question_encoder": 0.5,
        "grad_norm_generator": 3.17,
        "learning_rate": 3e-5,
        "epoch": 0.5,
    }
    assert log_line(logs, 50, 1250) == (
        "step 50 of 1,250:  loss 1.235  gradient 3.21 (question_encoder 0.5, generator 3.17)  "
        "learning rate 3e-05"
    )
    one = {"loss": 2.0, "grad_norm": 3.21, "grad_norm_generator": 3.21}
    assert log_line(one, 1, 2) == "step 1 of 2:  loss 2  gradient 3.21"


def test_the_rates_of_parts_with_their_own_stand_behind_that_of_the_others():
    logs = {"loss": 2.0, "learning_rate": 3e-5, "learning_rate_question_encoder": 1e-5}
    expected = "step 1 of 2:  loss 2  learning rate 3e-05 (question_encoder 1e-05)"
    assert log_line(logs, 1, 2) == expected


def test_the_losses_that_make_up_the_loss_stand_behind_it():
    logs = {"loss": 1.5, "grad_norm": 2.0, "loss_likelihood": 1.25, "loss_lsr": 0.5}
    expected = "step 1 of 2:  loss 1.5 (likelihood 1.25, lsr 0.5)  gradient 2"
    assert log_line(logs, 1, 2) == expected


def test_an_evaluation_is_a_line_in_per_cent():
    logs = {"eval_loss": 0.5, "eval_exact_match": 0.781, "eval_recall@5": 1.0, "eval_runtime": 3}
    assert log_line(logs, 5, 9) == (
        "step 5 of 9, validation:  loss 0.5  exact match 78.1 %  recall@5 100.0 %"
    )
    assert (
        log_line({"eval_unseen_loss": 0.5}, 5, 9) == "step 5 of 9, validation (unseen):  loss 0.5"
    )
    assert log_line({"eval_loss": 0.5}, 0, 0) == "validation:  loss 0.5"


def test_the_age_of_the_index_and_its_refreshes_are_told():
    logs = {"loss": 2.0, "learning_rate": 3e-5, "index_staleness": 40}
    assert log_line(logs, 1, 2) == "step 1 of 2:  loss 2  learning rate 3e-05  index age 40"
    refreshed = {"index_refresh_seconds": 12.345, "index_staleness": 7}
    line = "step 1 of 2:  index encoded anew in 12.3 s  age 7"
    assert log_line(refreshed, 1, 2) == line


def test_what_the_end_of_the_run_says_is_no_line():
    assert log_line({"train_runtime": 3.0, "train_loss": 0.5}, 9, 9) == ""


def test_a_run_without_a_terminal_shows_lines_and_no_bar(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(logging, "_tqdm_active", True)
    trainer = train_tiny(
        tmp_path,
        max_steps=2,
        logging_steps=1,
        disable_tqdm=False,
        eval_questions=tiny_rag.questions(4),
        eval_strategy="steps",
        eval_steps=2,
    )
    out, err = capfd.readouterr()
    lines = [line.split(":  ")[0] for line in out.splitlines() if line.startswith("step ")]
    assert lines == ["step 1 of 2", "step 2 of 2", "step 2 of 2, validation"]
    assert "Training:" not in err and "{'loss'" not in out
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert kinds.count(ProgressLines) == 1
    assert not {ProgressCallback, PrinterCallback} & set(kinds)


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_bars_show_on_a_terminal_only_and_where_they_are_wanted(
    tmp_path, monkeypatch, capfd, disable_tqdm
):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(logging, "_tqdm_active", True)
    train_tiny(tmp_path, max_steps=2, logging_steps=1, disable_tqdm=disable_tqdm)
    out, err = capfd.readouterr()
    assert ("Training: 100%" in err) != disable_tqdm
    assert "step 2 of 2:  loss " in out


def test_an_evaluation_without_a_loss_has_its_line_too():
    logs = {"eval_recall@1": 0.5, "eval_mrr@10": 0.625, "eval_n_examples": 8}
    assert log_line(logs, 3, 9) == "step 3 of 9, validation:  recall@1 50.0 %  mrr@10 62.5 %"
