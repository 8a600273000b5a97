import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

SEQUENCE, TOKEN = ROOT / "run_rag_sequence.sh", ROOT / "run_rag_token.sh"
VARIABLES = (
    "PASSAGES TRAIN_FILE VALIDATION_FILE TEST_FILE QUESTION_ENCODER CONTEXT_ENCODER GENERATOR "
    "MODEL OUTPUT_DIR NUM_PROCESSES"
).split()

# Stands in for `python` and `accelerate`: notes the words of each command, leaves its marker file.
STAND_IN = """#!/usr/bin/env bash
case "$1 $2" in
"-m rag_finetune.encoders.pairs") exec "$REAL_PYTHON" "$@" ;;
"-m rag_finetune"* | launch*) ;;
*) exec "$REAL_PYTHON" "$@" ;;
esac
printf '%s ' "$(basename "$0")" "$@" >>"$CALLS"
echo >>"$CALLS"
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a script in a folder of its own, with commands that only note how they are called."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("python", "accelerate"):
        (tools / name).write_text(STAND_IN)
        (tools / name).chmod(0o755)
    calls = tmp_path / "calls"
    for name in (*VARIABLES, "VENV", "MODEL_TYPE"):
        monkeypatch.delenv(name, raising=False)

    def run(script, *words, **variables):
        calls.write_text("")
        done = subprocess.run(
            [script, *words],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{tools}:{os.environ['PATH']}",
                "REAL_PYTHON": sys.executable,
                "CALLS": str(calls),
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        done.calls = calls.read_text().splitlines()
        return done

    return run


@pytest.fixture
def own(tmp_path):
    """The variables of somebody with files and networks of their own."""
    names = ("PASSAGES", "TRAIN_FILE", "QUESTION_ENCODER", "CONTEXT_ENCODER", "GENERATOR")
    return {name: name.lower() for name in names} | {"OUTPUT_DIR": "out"}


def leave(tmp_path, *names):
    for name in names:
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


def test_help_explains_every_variable(run):
    done = run(TOKEN, "--help")
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in VARIABLES)


def test_a_word_before_the_dashes_is_wrong_usage(run):
    done = run(SEQUENCE, "--n_docs", "3")
    assert done.returncode == 2
    assert "unexpected argument '--n_docs'" in done.stderr


@pytest.mark.parametrize("number", ["0", "two", "-1"])
def test_the_number_of_processes_is_checked(run, number):
    done = run(SEQUENCE, NUM_PROCESSES=number)
    assert (done.returncode, done.calls) == (2, [])
    assert f"NUM_PROCESSES must be a number from 1 up, found '{number}'" in done.stderr


@pytest.mark.parametrize("given", ["PASSAGES", "TRAIN_FILE"])
def test_passages_and_questions_belong_together(run, given):
    done = run(SEQUENCE, **{given: "x"})
    assert (done.returncode, done.calls) == (2, [])
    assert f"{given} is set and " in done.stderr


def test_the_steps_are_run_in_order(run, own):
    done = run(SEQUENCE, "--", "--n_docs", "3", **own)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.calls] == [
        words.split()
        for words in (
            "python -m rag_finetune index --passages passages --context_encoder context_encoder"
            " --output_dir out/index",
            "python -m rag_finetune assemble --question_encoder question_encoder"
            " --generator generator --model_type rag_sequence --index out/index"
            " --questions train_file --output_dir out/assembled",
            "python -m rag_finetune train --model_name_or_path out/assembled --index out/index"
            " --train_file train_file --output_dir out/model --model_type rag_sequence --n_docs 3",
            "python -m rag_finetune evaluate --model_name_or_path out/model --index out/index"
            " --eval_file train_file"
            " --output_dir out/evaluation",
        )
    ]
    assert "the metrics are those of the questions trained on" in done.stdout


def test_the_other_script_trains_rag_token(run, own):
    done = run(TOKEN, **(own | {"OUTPUT_DIR": ""}))
    assert "--model_type rag_token --index runs/rag_token/index" in done.calls[1]
    assert "--output_dir runs/rag_token/assembled" in done.calls[1]
    assert "--model_type rag_token" in done.calls[2]


def test_steps_already_done_are_skipped_and_the_metrics_shown(run, own, tmp_path):
    leave(tmp_path, "index/manifest.json", "assembled/config.json")
    leave(tmp_path, "model/train_results.json", "evaluation/metrics.json")
    done = run(SEQUENCE, **own)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.calls] == [
        ["python", "-m", "rag_finetune.evaluation.report", "out/evaluation"]
    ]


def test_an_interrupted_training_goes_on(run, own, tmp_path):
    leave(
        tmp_path,
        "index/manifest.json",
        "assembled/config.json",
        "model/checkpoint-4/trainer_state.json",
    )
    assert "--resume_from_checkpoint latest" in run(SEQUENCE, **own).calls[0]


def test_a_folder_made_from_other_inputs_is_refused_and_the_difference_shown(run, own):
    assert run(SEQUENCE, **own).returncode == 0
    again = run(SEQUENCE, **own)
    assert again.returncode == 0, again.stderr
    other = run(SEQUENCE, **{**own, "PASSAGES": "other.tsv"})
    assert other.returncode == 2
    assert "was made from other inputs. Choose another OUTPUT_DIR" in other.stderr
    assert "now:  PASSAGES=other.tsv" in other.stderr


def test_a_training_that_left_no_whole_checkpoint_starts_anew(run, own, tmp_path):
    leave(
        tmp_path, "index/manifest.json", "assembled/config.json", "model/checkpoint-4/config.json"
    )
    done = run(SEQUENCE, **own)
    assert "--resume_from_checkpoint" not in done.calls[0]
    assert "starting anew" in done.stdout
    assert not (tmp_path / "out/model/checkpoint-4").exists()


def test_a_given_model_is_not_assembled(run, own):
    done = run(SEQUENCE, MODEL="facebook/rag-sequence-nq", **own)
    assert not any("assemble" in line for line in done.calls)
    assert "--model_name_or_path facebook/rag-sequence-nq" in done.calls[1]


def test_a_published_model_brings_its_context_encoder(run, own):
    del own["CONTEXT_ENCODER"]
    done = run(SEQUENCE, MODEL="facebook/rag-sequence-nq", **own)
    assert "--context_encoder facebook/dpr-ctx_encoder-multiset-base" in done.calls[0]


def test_a_model_of_ones_own_needs_its_context_encoder_named(run, own):
    del own["CONTEXT_ENCODER"]
    done = run(SEQUENCE, MODEL="my/model", **own)
    assert (done.returncode, done.calls) == (2, [])
    assert "which one was the question encoder of my/model trained with?" in done.stderr


def test_an_encoder_that_is_no_half_of_a_pair_encodes_the_passages_too(run, own):
    del own["CONTEXT_ENCODER"]
    done = run(SEQUENCE, **own)
    assert "--context_encoder question_encoder " in done.calls[0]
    assert "question_encoder encodes the passages too" in done.stdout


def test_the_files_for_validation_and_test_are_used(run, own):
    done = run(SEQUENCE, VALIDATION_FILE="v.json", TEST_FILE="t.json", **own)
    assert "--validation_file v.json" in done.calls[2]
    assert "--eval_file t.json" in done.calls[3]


def test_the_validation_questions_are_tested_on_when_no_others_are_given(run, own):
    assert "--eval_file v.json" in run(SEQUENCE, VALIDATION_FILE="v.json", **own).calls[3]


def test_the_hub_names_are_the_defaults_for_own_passages(run):
    done = run(SEQUENCE, PASSAGES="p.tsv", TRAIN_FILE="t.json")
    assert "--context_encoder facebook/dpr-ctx_encoder-single-nq-base" in done.calls[0]
    assert "--question_encoder facebook/dpr-question_encoder-single-nq-base" in done.calls[1]
    assert "--generator facebook/bart-base" in done.calls[1]


def test_several_processes_are_launched_by_accelerate(run, own):
    pytest.importorskip("torch")
    import torch

    call = run(SEQUENCE, NUM_PROCESSES="2", **own).calls[2]
    assert call.startswith("accelerate launch --multi_gpu ")
    assert " --num_processes 2 --mixed_precision no " in call
    assert " -m rag_finetune train " in call
    assert ("--use_cpu" in call) == (not torch.cuda.is_available())


def test_the_default_says_that_it_can_only_memorise(run):
    done = run(SEQUENCE)
    assert done.returncode == 0, done.stderr
    assert "They know no language and can only memorise" in done.stdout
    assert "--context_encoder runs/rag_sequence/tiny_models/context_encoder" in done.calls[0]
    assert f"--train_file {ROOT}/data/tiny/train.json" in done.calls[2]


def test_a_failing_step_ends_the_script(run, own, tmp_path):
    (tmp_path / "tools" / "python").write_text(STAND_IN.replace("echo >>", "exit 3; echo >>"))
    done = run(SEQUENCE, **own)
    assert done.returncode == 3
    assert len(done.calls) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("script", [SEQUENCE, TOKEN], ids=lambda path: path.stem)
@pytest.mark.skipif(shutil.which("python") is None, reason="the environment has no `python`")
def test_the_default_run_memorises_its_questions(script, tmp_path, monkeypatch):
    for name in (*VARIABLES, "VENV", "MODEL_TYPE"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(
        [script], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    output = tmp_path / "runs" / script.stem.removeprefix("run_")
    metrics = json.loads((output / "evaluation" / "metrics.json").read_text())
    assert metrics["exact_match"] >= 0.8
