"""`rag-finetune train`, and the whole job, run in this process."""

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
import tiny_rag
import torch
from test_cli_assemble import CHECKPOINT_FILES
from test_cli_index import INDEX_FILES
from tiny_job import (
    QUICK,
    assemble_words,
    error_of,
    files_under,
    index_words,
    ok,
    run,
    tiny_job,
    train_words,
    usage_error_of,
    write_inputs,
)
from tiny_words import words_job

from rag_finetune.cli.train import make_train_parser
from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.training import rag_saver
from rag_finetune.training.rag_evaluator import as_questions
from rag_finetune.training.rag_trainer import RagTrainer
from rag_finetune.training.setup import reported_metrics

RUN_FILES = (
    CHECKPOINT_FILES
    | {f"index/{name}" for name in INDEX_FILES}
    | {"trainer_state.json", "train_results.json", "training_arguments.json", "training.png"}
)
RESUMING_FILES = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
QUESTION = "what is the house of ada ?"


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """As where matplotlib is not installed; the job that is looked at whole is made before."""
    tiny_job()
    monkeypatch.setattr(rag_saver, "can_plot", lambda: False)


def read(path):
    return json.loads(Path(path).read_text())


def history(folder):
    return read(folder / "trainer_state.json")["log_history"]


def every_step(*words):
    """Log, evaluate and save at each step."""
    steps = "--logging_steps 1 --eval_strategy steps --eval_steps 1 --save_strategy steps"
    return [*steps.split(), "--save_steps", "1", *words]


def state_of(folder):
    return load_rag(folder).model.state_dict()


# ---- The whole job ----


class Blocked(socket.socket):
    """What every socket is while there is no network."""

    def __init__(self, *args, **kwargs):
        raise AssertionError("this needs the network")


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_the_whole_job_needs_no_network(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "socket", Blocked)
    write_inputs(tmp_path, kind)
    ok(*index_words(tmp_path, tmp_path / "index"))
    ok(*assemble_words(tmp_path, tmp_path / "assembled"), "--index", tmp_path / "index")
    ok(*train_words(tmp_path, tmp_path / "run"))
    (tmp_path / "run").rename(tmp_path / "moved")
    model = ["--model_name_or_path", tmp_path / "moved"]
    ok("evaluate", *model, "--eval_file", tmp_path / "train.json", "--output_dir", tmp_path / "e")
    answers = ok("predict", *model, "--questions", tmp_path / "train.json").out.splitlines()
    questions = [json.loads(line)["question"] for line in answers]
    assert questions == [fact["question"] for fact in tiny_rag.facts()]
    assert QUESTION in ok("search", QUESTION, *model).out
    assert read(tmp_path / "e/metrics.json")["n_examples"] == 20


def test_train_leaves_the_folder_that_the_design_describes():
    folder = tiny_job() / "run"
    at_the_end = {"train_results.json", "training.png"}
    midway = RUN_FILES - at_the_end | RESUMING_FILES
    assert files_under(folder) == RUN_FILES | {f"checkpoint-3/{name}" for name in midway}
    results = read(folder / "train_results.json")
    assert results["train_loss"] > 0
    assert (results["best_step"], results["best_metric"]) == (3, 0.0)
    assert read(folder / "rag_index.json")["index"] == "index"
    readable = (p for p in folder.rglob("*.json") if p.name != "trainer_state.json")
    assert all(str(tiny_job()) not in path.read_text() for path in readable)


def test_train_results_are_what_is_written_last():
    folder = tiny_job() / "run"
    last = (folder / "train_results.json").stat().st_mtime_ns
    assert all(path.stat().st_mtime_ns <= last for path in folder.rglob("*") if path.is_file())


def test_the_finished_model_is_the_best_checkpoint():
    best, finished = state_of(tiny_job() / "run/checkpoint-3"), state_of(tiny_job() / "run")
    assert all(torch.equal(best[name], tensor) for name, tensor in finished.items())
    before = state_of(tiny_job() / "assembled")
    assert not all(torch.equal(before[name], tensor) for name, tensor in finished.items())


# ---- Validation ----


def test_what_trains_and_on_how_much_is_said(tmp_path):
    done = ok(*train_words(tiny_job(), tmp_path / "run"), "--trainable", "generator")
    assert "question_encoder 4,304 frozen" in " ".join(done.out.split())
    assert "generator 10,784 0.001" in " ".join(done.out.split())
    assert "18 questions to train on, 2 to validate on; 1 process(es)." in done.out
    assert f"{tmp_path / 'run'}: finished after 3 steps; best exact_match in validation" in done.out


def test_the_split_goes_by_document(tmp_path):
    rows = [
        {"question": f"what is the house of {name} ?", "answer": "red", "positive_ids": ["1"]}
        for name in tiny_rag.NAMES[:15]
    ]
    rows += [
        {"question": f"where is {name} ?", "answer": "blue", "positive_ids": [str(number)]}
        for number, name in enumerate(tiny_rag.NAMES[15:], start=2)
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    words = [*train_words(tiny_job(), tmp_path / "run"), "--train_file", tmp_path / "train.json"]
    done = ok(*words, "--validation_split", 0.2)
    assert "16 questions to train on, 4 to validate on" in done.out


def test_only_the_first_questions_are_used_where_a_number_is_given(tmp_path):
    words = [*train_words(tiny_job(), tmp_path / "run"), "--max_train_samples", 12]
    words += ["--max_eval_samples", 5, "--validation_file", tiny_job() / "train.json"]
    done = ok(*words)
    limits = "(--max_train_samples 12, --max_eval_samples 5)"
    assert f"12 questions to train on, 5 to validate on {limits}; 1 process(es)." in done.out
    (entry,) = (e for e in history(tmp_path / "run") if "eval_loss" in e)
    assert entry["eval_n_examples"] == 5


@pytest.mark.parametrize("flag", ["--max_train_samples", "--max_eval_samples"])
def test_a_number_of_questions_is_at_least_one(tmp_path, flag):
    error = error_of(*train_words(tiny_job(), tmp_path / "run"), flag, 0)
    assert f"{flag} must be at least 1, found 0." in error


def squad_file(path):
    """Ten questions in SQuAD's format, two of them unanswerable; the facts are their contexts."""
    paragraphs = [
        {
            "context": fact["text"],
            "qas": [
                {
                    "id": f"q{number}",
                    "question": fact["question"],
                    "is_impossible": number > 7,
                    "answers": [{"text": fact["answer"], "answer_start": 0}] * (number <= 7),
                }
            ],
        }
        for number, fact in enumerate(tiny_rag.facts()[:10])
    ]
    path.write_text(
        json.dumps({"version": "v2.0", "data": [{"title": "", "paragraphs": paragraphs}]})
    )
    return path


@pytest.mark.filterwarnings("ignore:.*unanswerable questions were skipped")
def test_gold_passages_given_as_texts_are_looked_up_in_the_index(tmp_path):
    file = squad_file(tmp_path / "squad.json")
    words = [*train_words(tiny_job(), tmp_path / "run"), "--validation_file", file]
    ok(*words, "--qa_format", "squad", "--train_file", file)
    entry = next(e for e in history(tmp_path / "run") if "eval_loss" in e)
    assert entry["eval_n_examples"] == 8
    assert entry["eval_recall@20"] == 1.0  # of twenty passages all are found
    kept = ok(*words[:-1], file, "--output_dir", tmp_path / "kept", "--keep_unanswerable")
    assert "10 to validate on" in kept.out


def test_questions_without_answers_cannot_be_trained_on(tmp_path):
    rows = [{"question": f["question"], "context": f["text"]} for f in tiny_rag.facts()]
    (tmp_path / "qa.json").write_text(json.dumps(rows))
    words = [*train_words(tiny_job(), tmp_path / "run"), "--train_file", tmp_path / "qa.json"]
    assert "answer" in error_of(*words)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_reads_flags_and_questions_and_makes_nothing(tmp_path):
    words = [*train_words(tiny_job(), tmp_path / "run"), "--dry_run"]
    words[words.index("--model_name_or_path") + 1] = tmp_path / "not_there_yet"
    done = ok(*words)
    assert done.out == "18 questions to train on, 2 to validate on.\n"
    assert "Did you mean --num_train_epochs?" in usage_error_of(*words, "--num_epochs", 2)
    (tmp_path / "bad.json").write_text('[{"question": "Who?"}]')
    assert "bad.json:1: " in error_of(*words, "--train_file", tmp_path / "bad.json")
    assert not (tmp_path / "run").exists()


def test_a_split_that_no_document_allows_is_an_error(tmp_path):
    row = {"question": QUESTION, "answer": "red", "positive_ids": ["1"]}
    (tmp_path / "train.json").write_text(json.dumps([row, row]))
    words = [*train_words(tiny_job(), tmp_path / "run"), "--train_file", tmp_path / "train.json"]
    assert "Give a validation file of its own." in error_of(*words)


def test_a_validation_file_is_evaluated_and_nothing_is_held_out(tmp_path):
    (tmp_path / "v.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "brown"}))
    words = train_words(tiny_job(), tmp_path / "run")
    done = ok(*words, "--validation_file", tmp_path / "v.jsonl")
    assert "20 questions to train on, 1 to validate on" in done.out
    assert "Note: 1 question(s) choose the best checkpoint, by chance" in done.out
    assert [e["eval_n_examples"] for e in history(tmp_path / "run") if "eval_loss" in e] == [1]


def test_with_a_split_of_zero_nothing_is_evaluated(tmp_path):
    words = train_words(tiny_job(), tmp_path / "run")
    done = ok(*words, "--validation_split", 0, "--eval_strategy", "steps")
    assert "20 questions to train on, 0 to validate on" in done.out
    assert not any("eval_loss" in entry for entry in history(tmp_path / "run"))
    assert "best" not in done.out
    assert "best_metric" not in read(tmp_path / "run/train_results.json")


def test_where_nothing_is_evaluated_nothing_is_held_out(tmp_path):
    words = train_words(tiny_job(), tmp_path / "run")
    done = ok(*words, "--eval_strategy", "no")
    assert "20 questions to train on, 0 to validate on" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eval_on_start"], "--eval_on_start needs questions"),
        (["--early_stopping_patience", "2"], "early_stopping_patience needs evaluations"),
        (["--save_strategy", "best"], "save_strategy best needs evaluations"),
        (["--lr_scheduler_type", "greedy"], "requires an eval strategy"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_needs_an_evaluation_is_refused_without_one(tmp_path, words, message):
    words = [*train_words(tiny_job(), tmp_path / "run"), "--validation_split", 0, *words]
    assert message in error_of(*words)


def test_the_metrics_that_may_choose_the_best_model_are_those_reported(tmp_path, monkeypatch):
    trainers = []
    finish = RagTrainer.finish
    monkeypatch.setattr(
        RagTrainer, "finish", lambda self, metrics: trainers.append(self) or finish(self, metrics)
    )
    words = train_words(tiny_job(), tmp_path / "run")
    ok(*words, "--n_docs", 7, "--metric_for_best_model", "recall@7")
    (entry,) = (e for e in history(tmp_path / "run") if "eval_loss" in e)
    named = {name.removeprefix("eval_") for name in entry if name.startswith("eval_")}
    timing = {"runtime", "samples_per_second", "steps_per_second"}
    (trainer,) = trainers
    items = as_questions(trainer.eval_dataset, trainer.retriever.index)
    assert set(reported_metrics(trainer.rag, items, trainer.args)) == named - timing


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric_for_best_model", "accuracy"], "must be one of answer_recall@1"),
        (["--metric_for_best_model", "recall@3"], 'found "recall@3"'),
        (["--metric_for_best_model", "mrr@10", "GOLDLESS"], "need gold passages in the validation"),
        (["--metric_for_best_model", "f1", "--predict_with_generate", "false"], "needs answers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_metric_that_no_evaluation_reports_is_refused_before_training(tmp_path, words, message):
    if words[-1] == "GOLDLESS":
        (tmp_path / "v.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "brown"}))
        words = [*words[:-1], "--validation_file", tmp_path / "v.jsonl"]
    assert message in error_of(*train_words(tiny_job(), tmp_path / "run"), *words)
    assert not any((tmp_path / "run").glob("*"))


def test_that_the_last_model_is_kept_is_said(tmp_path):
    words = train_words(tiny_job(), tmp_path / "run")
    done = ok(*words, "--save_strategy", "no")
    assert "in validation 0.0000, the last model is kept." in done.out


# ---- Where the index comes from, and which head ----


def test_training_goes_on_from_a_checkpoint_with_its_own_index(tmp_path):
    words = train_words(tiny_job(), tmp_path / "run")
    ok(*words, "--model_name_or_path", tiny_job() / "run")
    assert len(load_rag(tmp_path / "run").retriever.index) == 20


def test_an_index_may_be_named_for_a_checkpoint_that_has_none(tmp_path):
    ok(*assemble_words(tiny_job(), tmp_path / "bare"))
    words = [*train_words(tiny_job(), tmp_path / "run"), "--model_name_or_path", tmp_path / "bare"]
    assert "the checkpoint has no index of its own. Name one: --index D." in error_of(*words)
    ok(*words, "--index", tiny_job() / "index", "--save_index", "link")
    assert read(tmp_path / "run/rag_index.json")["index"] == os.path.relpath(
        tiny_job() / "index", tmp_path / "run"
    )
    assert not (tmp_path / "run/index").exists()


def test_an_index_of_another_encoder_is_refused_before_training(tmp_path):
    tiny_rag.tiny_index(tmp_path / "other")
    words = [*train_words(tiny_job(), tmp_path / "run"), "--index", tmp_path / "other"]
    assert "Give the index that belongs to this model" in error_of(*words)
    assert not (tmp_path / "run").exists()


def test_the_head_can_be_changed(tmp_path):
    words = train_words(tiny_job(), tmp_path / "run")
    ok(*words, "--model_type", "rag_token")
    assert read(tmp_path / "run/config.json")["architectures"] == ["RagTokenForGeneration"]
    assert type(load_rag(tmp_path / "run").model).__name__ == "RagTokenForGeneration"


# ---- Stopping and going on ----


def test_a_run_goes_on_from_its_latest_checkpoint(tmp_path):
    words = [*train_words(tiny_job(), tmp_path / "run"), *every_step()]
    ok(*words, "--max_steps", 2)
    ok(*words, "--max_steps", 4, "--resume_from_checkpoint", "latest")
    steps = [entry["step"] for entry in history(tmp_path / "run") if "loss" in entry]
    assert steps == [1, 2, 3, 4]
    assert read(tmp_path / "run/trainer_state.json")["global_step"] == 4


def test_a_run_that_was_killed_after_its_last_step_only_finishes(tmp_path):
    words = [*train_words(tiny_job(), tmp_path / "run"), *every_step()]
    words += ["--lr_scheduler_type", "constant", "--validation_split", 0]
    ok(*words)
    before = state_of(tmp_path / "run")
    (tmp_path / "run/train_results.json").unlink()
    ok(*words, "--resume_from_checkpoint", "latest")
    assert read(tmp_path / "run/trainer_state.json")["global_step"] == 3
    after = state_of(tmp_path / "run")
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path):
    words = [*train_words(tiny_job(), tmp_path / "run"), *every_step()]
    ok(*words, "--max_steps", 2)
    (tmp_path / "run/checkpoint-2/trainer_state.json").unlink()
    (tmp_path / "run/train_results.json").unlink()
    ok(*words, "--max_steps", 2, "--resume_from_checkpoint", "latest")
    assert read(tmp_path / "run/trainer_state.json")["global_step"] == 2
    assert (tmp_path / "run/train_results.json").exists()


def test_where_there_is_nothing_to_go_on_from_the_remedy_is_named(tmp_path):
    words = [*train_words(tiny_job(), tmp_path / "run"), "--resume_from_checkpoint"]
    (tmp_path / "run/checkpoint-3").mkdir(parents=True)
    (tmp_path / "run/checkpoint-3/model.safetensors").write_text("")
    error = error_of(*words, "latest")
    assert "no whole checkpoint to resume from. Start anew: remove the folder or choose" in error
    error = error_of(*words, tmp_path / "run/checkpoint-3")
    assert "trainer_state.json is missing. Name a whole checkpoint-N, or latest." in error
    error = error_of(*words, tmp_path / "run/checkpoint-4")
    assert "checkpoint-4: not a checkpoint to resume from" in error


def test_a_model_without_its_optimiser_is_nothing_to_resume_from(tmp_path):
    words = train_words(tiny_job(), tmp_path / "run")
    finished = tiny_job() / "run"
    error = error_of(*words, "--resume_from_checkpoint", finished)
    assert "optimizer.pt is missing" in error
    assert f"Start a new run from its weights: --model_name_or_path {finished}" in error
    ok(*words, "--save_only_model")
    error = error_of(*words, "--resume_from_checkpoint", "latest")
    assert "--save_only_model" in error


def test_a_folder_that_holds_something_is_refused_and_names_the_ways_on(tmp_path):
    (tmp_path / "run").mkdir()
    words = train_words(tiny_job(), tmp_path / "run")
    (tmp_path / "run/notes.txt").write_text("mine")
    error = error_of(*words)
    assert error.strip().endswith("already exists and is not empty. Choose another --output_dir.")
    (tmp_path / "run/checkpoint-2").mkdir()
    assert error_of(*words) == error  # nothing to go on from
    (tmp_path / "run/checkpoint-2/trainer_state.json").write_text("{}")
    remedy = "Go on with it: --resume_from_checkpoint latest; or choose another --output_dir."
    assert remedy in error_of(*words)
    shutil.rmtree(tmp_path / "run/checkpoint-2")
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    (tmp_path / "run/notes.txt").unlink()
    ok(*words)  # an empty folder is as good as none


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file. Choose another --output_dir." in error_of(
        *train_words(tiny_job(), tmp_path / "file")
    )


def test_sigterm_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path, monkeypatch):
    words = [*train_words(tiny_job(), tmp_path / "run"), "--max_steps", 5]
    step = RagTrainer.training_step

    def kill(self, *args, **kwargs):
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(RagTrainer, "training_step", kill)
        done = run(*words)
    assert done.code == 143
    assert "Stopped by SIGTERM at step 2. Go on with --resume_from_checkpoint latest." in done.out
    assert (tmp_path / "run/checkpoint-2/trainer_state.json").exists()
    assert not (tmp_path / "run/train_results.json").exists()
    ok(*words, "--resume_from_checkpoint", "latest")
    assert read(tmp_path / "run/trainer_state.json")["global_step"] == 5


def test_a_run_that_failed_is_not_taken_for_a_finished_one(tmp_path, monkeypatch):
    monkeypatch.setattr(RagTrainer, "save_state", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(*train_words(tiny_job(), tmp_path / "run"))
    assert not (tmp_path / "run/train_results.json").exists()


# ---- Recipes ----


def recipe_file(folder, **values):
    path = folder / "recipe.yaml"
    job = tiny_job()
    values = {"model_name_or_path": job / "assembled", "train_file": job / "train.json"} | values
    path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    return path


def test_a_recipe_sets_our_flags_and_those_of_transformers(tmp_path):
    recipe = recipe_file(
        tmp_path,
        output_dir=tmp_path / "run",
        learning_rate="3e-5",
        max_steps=1,
        warmup_steps=0,
        trainable="[generator]",
        lr_scheduler_type="cosine",
        bf16="false",
        max_target_length=8,
        disable_tqdm="true",
        eval_strategy="steps",
        save_strategy="'no'",
        validation_split=0.5,
        lr_scheduler_kwargs="{num_cycles: 1}",
    )
    done = ok("train", "--config", recipe)
    assert "10 questions to train on, 10 to validate on" in done.out
    written = read(tmp_path / "run/training_arguments.json")
    expected = {
        "learning_rate": 3e-5,
        "max_steps": 1,
        "trainable": ["generator"],
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 1},
        "save_strategy": "no",
        "bf16": False,
    }
    assert {name: written[name] for name in expected} == expected


def test_flags_win_over_the_recipe(tmp_path):
    recipe = recipe_file(tmp_path, learning_rate="3e-5", n_docs=2, max_steps=50)
    words = [*QUICK, "--n_docs", 3, "--output_dir", tmp_path / "run"]
    ok("train", *words[:4], "--config", recipe, *words[4:])
    written = read(tmp_path / "run/training_arguments.json")
    assert (written["learning_rate"], written["n_docs"], written["max_steps"]) == (1e-3, 3, 3)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("learning_rat", "learning_rate"),
        ("n_doc", "n_docs"),
        ("validation_fil", "validation_file"),
        ("per_device_train_batchsize", "per_device_train_batch_size"),
    ],
)
def test_an_unknown_key_of_a_recipe_names_the_nearest(tmp_path, key, nearest):
    recipe = recipe_file(tmp_path, **{key: 1})
    error = error_of("train", "--config", recipe, "--output_dir", tmp_path / "run")
    assert f'{recipe}:3: unknown key "{key}". Did you mean "{nearest}"?' in error


# ---- Errors ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train_file", "nowhere.json"], "nowhere.json: expected a file, found nothing there"),
        (["--validation_file", "nowhere.json"], "nowhere.json: expected a file, found nothing"),
        (["--validation_split", "1.5"], "--validation_split must be from 0 to below 1, found 1.5."),
        (["--validation_split", "nan"], "--validation_split must be from 0 to below 1"),
        (["--model_name_or_path", "./nowhere"], "./nowhere: no such folder."),
        (["--model_name_or_path", "JOB/parts/generator"], "`rag-finetune assemble`"),
        (["--index", "nowhere"], "nowhere: no such folder. Build it with `rag-finetune index`."),
        (["--n_docs", "0"], "n_docs must be at least 1, found 0."),
        (["--n_docs", "1"], "raise --n_docs, or take it out of --trainable."),
        (["--max_target_length", "500"], "at most 128, the generator's positions"),
        (["--learning_rate", "0"], "learning_rate must be above 0"),
        (["--deepspeed", "x.json"], "--deepspeed x.json cannot be used: not supported."),
        (["--push_to_hub"], "--push_to_hub needs the Hub, and HF_HUB_OFFLINE is set."),
        (["--hub_model_id", "a/b"], "--hub_model_id goes with --push_to_hub."),
        (["--hub_always_push"], "cannot be used: only the finished model is uploaded."),
        (["--report_to", "wandb"], "pip install wandb"),
        (["--report_to", "nobody"], "nobody is not supported"),
        (["--optim", "grokadamw"], "pip install grokadamw"),
        (["--lr_scheduler_kwargs", "{x"], "Expecting property name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_fails_with_one_line(tmp_path, words, message):
    words = [word.replace("JOB", str(tiny_job())) for word in words]
    assert message in error_of(*train_words(tiny_job(), tmp_path / "run"), *words)
    assert not (tmp_path / "run/train_results.json").exists()


def test_a_folder_is_still_free_after_a_run_that_stopped_at_its_first_step(tmp_path):
    words = train_words(tiny_job(), tmp_path / "run")
    assert "No gradient reaches question_encoder" in error_of(*words, "--n_docs", 1)
    ok(*words, "--n_docs", 2)


def test_without_an_output_folder_it_is_the_one_that_help_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = train_words(tiny_job(), tmp_path)
    del words[words.index("--output_dir") : words.index("--output_dir") + 2]
    ok(*words)
    assert (tmp_path / "trainer_output/train_results.json").exists()
    assert "default: trainer_output" in " ".join(ok("train", "--help").out.split())


def test_a_damaged_question_is_named_with_its_line(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"question": "a ?", "answers": "b"}\n')
    words = [*train_words(tiny_job(), tmp_path / "run"), "--train_file", tmp_path / "train.jsonl"]
    assert 'train.jsonl:1: "answers" must be a non-empty list of strings' in error_of(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_ratee", "1"], "--learning_ratee. Did you mean --learning_rate?"),
        (["--n_doc", "3"], "unrecognised flag --n_doc. Did you mean --n_docs?"),
        (["--train_fil=x"], "unrecognised flag --train_fil. Did you mean --train_file?"),
        (["--trainable", "doc_encoder"], "invalid choice: 'doc_encoder'"),
        (["--trainable", "generator", "reader"], "invalid choice: 'reader'"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--lr_scheduler_type", "zigzag"], "invalid choice: 'zigzag'"),
        (["--max_steps", "3", "stray"], 'unexpected argument "stray". See'),
        (
            ["--retriever_loss", "lsr", "contrastive:4"],
            "Losses are joined by commas: --retriever_loss lsr,contrastive:4. See",
        ),
        (["--model_type", "rag"], "invalid choice: 'rag'"),
        (["--resume_from_checkpoint"], "expected one argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_ends_with_2_and_does_not_list_all_flags(tmp_path, words, message):
    words = [*train_words(tiny_job(), tmp_path / "run"), *words]
    assert message in usage_error_of(*words)
    assert run(*words).err.count("\n") < 12


def test_missing_flags_are_named():
    error = usage_error_of("train", "--output_dir", "x")
    assert "required: --model_name_or_path, --train_file" in error


def test_no_flag_of_ours_is_also_one_of_transformers():
    from rag_finetune.training.arguments import RagTrainingArguments

    ours = {action.dest for action in make_train_parser()._actions} - {"debug"}
    assert ours & set(RagTrainingArguments.__dataclass_fields__) == set()


# ---- By words ----


def train_by_words(output, folder, *more):
    model = words_job() / f"{folder}_model/assembled"
    words = ["--model_name_or_path", model, "--train_file", tiny_job() / "train.json"]
    quick = ["--validation_split", 0, *QUICK]
    return ok("train", *words, "--output_dir", output, *quick, *more)


def test_a_hybrid_is_trained_with_and_remembered(tmp_path):
    done = train_by_words(tmp_path / "run", "full", "--retrieval", "hybrid", "--lexical_prior", 0.1)
    assert (
        "Retrieval: hybrid (vectors and bm25 by reciprocal ranks, words 0.5), lexical prior 0.1."
        in done.out
    )
    reference = json.loads((tmp_path / "run/rag_index.json").read_text())
    assert reference["retrieval"]["way"] == "hybrid" and reference["retrieval"]["prior"] == 0.1
    found = load_rag(tmp_path / "run").retriever.searcher.retrieval
    assert (found.way, found.prior) == ("hybrid", 0.1)
    dense = load_rag(tmp_path / "run", retrieval="dense", lexical_prior=0).retriever
    assert (dense.searcher.retrieval.way, dense.searcher.by_words) == ("dense", False)
    with pytest.raises(ValueError, match=r"run: retrieval by hybrid .* has vectors only"):
        load_rag(tmp_path / "run", index=tiny_rag.tiny_index(tmp_path / "index"))


def test_an_index_of_words_trains_the_generator_alone(tmp_path):
    with pytest.warns(UserWarning, match="the question encoder stays as it is"):
        done = train_by_words(tmp_path / "run", "bare")
    assert "Retrieval: bm25." in done.out
    assert load_rag(tmp_path / "run").retriever.searcher.retrieval.way == "bm25"
