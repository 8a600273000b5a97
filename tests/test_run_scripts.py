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
"-m rag_finetune") [ "$4" != --dry_run ] || CALLS+=.dry ;;
launch*) ;;
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
    calls, looked = tmp_path / "calls", tmp_path / "calls.dry"
    for name in (*VARIABLES, "VENV", "MODEL_TYPE"):
        monkeypatch.delenv(name, raising=False)

    def run(script, *words, **variables):
        for file in (calls, looked):
            file.write_text("")
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
        done.calls, done.looked = (file.read_text().splitlines() for file in (calls, looked))
        return done

    return run


@pytest.fixture
def own(tmp_path):
    """The variables of somebody with files and networks of their own."""
    names = ("PASSAGES", "TRAIN_FILE", "QUESTION_ENCODER", "CONTEXT_ENCODER", "GENERATOR")
    for name in ("passages", "train_file"):
        (tmp_path / name).write_text(name)
    return {name: name.lower() for name in names} | {"OUTPUT_DIR": "out"}


STEPS = ("index/manifest.json", "assembled/config.json", "model/train_results.json")


@pytest.fixture
def begun(run, own, tmp_path):
    """What a run with these variables notes in its folder, whose steps have left nothing."""
    assert run(SEQUENCE, **own).returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["inputs"]


def leave(tmp_path, *names, folder="out"):
    for name in names:
        path = tmp_path / folder / name
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


@pytest.mark.parametrize("name", ["PASSAGES", "TRAIN_FILE", "VALIDATION_FILE", "TEST_FILE"])
def test_a_file_that_is_not_there_is_said_before_anything_is_made(run, own, tmp_path, name):
    done = run(SEQUENCE, **(own | {name: "mistyped.json"}))
    assert (done.returncode, done.calls) == (2, [])
    assert f"error: {name} is 'mistyped.json': no such file." in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_head_is_that_of_the_script_and_not_of_the_environment(run, own):
    done = run(SEQUENCE, MODEL_TYPE="bart", **own)
    assert "--model_type rag_sequence " in done.calls[1]


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
            "python -m rag_finetune compare --model_name_or_path out/model"
            " --starting_model out/assembled --index out/index --train_file train_file"
            " --eval_files train_file --output_dir out/evaluation",
        )
    ]
    assert "the table is of the questions trained on" in done.stdout


def test_the_last_lines_name_only_what_is_there(run, own, tmp_path):
    bare = run(SEQUENCE, **own)
    assert "\nout/model " in bare.stdout
    assert "training.png" not in bare.stdout and "can be moved" not in bare.stdout
    leave(tmp_path, *STEPS, "model/index/manifest.json", "model/training.png")
    whole = run(SEQUENCE, **own)
    assert "\nout/model/training.png " in whole.stdout
    assert "tokenizers and index: one folder that can be moved" in whole.stdout


def test_the_other_script_trains_rag_token(run, own):
    done = run(TOKEN, **(own | {"OUTPUT_DIR": ""}))
    assert "--model_type rag_token --index runs/rag_token/index" in done.calls[1]
    assert "--output_dir runs/rag_token/assembled" in done.calls[1]
    assert "--model_type rag_token" in done.calls[2]


@pytest.mark.usefixtures("begun")
def test_steps_already_done_are_skipped_and_the_table_shown(run, own, tmp_path):
    leave(tmp_path, *STEPS, "evaluation/inputs.json")
    done = run(SEQUENCE, **own)
    assert done.returncode == 0, done.stderr
    [call] = done.calls
    assert call.startswith("python -m rag_finetune compare ")
    assert "--overwrite" not in call


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize("redone", ["index/manifest.json", "model/train_results.json"])
def test_what_is_newer_than_its_comparison_is_compared_anew(run, own, tmp_path, redone):
    leave(tmp_path, *STEPS, "evaluation/inputs.json", "evaluation/mine.txt")
    os.utime(tmp_path / "out/evaluation/inputs.json", (1, 1))
    for name in STEPS:
        os.utime(tmp_path / "out" / name, (2, 2) if name == redone else (0, 0))
    done = run(SEQUENCE, **own)
    assert [call.endswith("--overwrite ") for call in done.calls] == [True]
    assert (tmp_path / "out/evaluation/mine.txt").exists()


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize(
    ("removed", "later"), [("index", "out/assembled out/model"), ("assembled", "out/model")]
)
def test_a_step_is_not_done_anew_before_what_came_of_it_is_removed(
    run, own, tmp_path, removed, later
):
    leave(tmp_path, *STEPS)
    shutil.rmtree(tmp_path / "out" / removed)
    done = run(SEQUENCE, **own)
    assert (done.returncode, done.calls) == (2, [])
    assert f"error: out/{removed} is to be made anew" in done.stderr
    assert f"Remove {later} too." in done.stderr
    assert (tmp_path / "out/model/train_results.json").exists()


def test_a_model_of_somebody_else_is_not_removed(run, own, tmp_path):
    leave(tmp_path, "model/model.safetensors")
    done = run(SEQUENCE, **own)
    assert (done.returncode, done.calls) == (2, [])
    assert "error: out/model is not of this script. Choose another OUTPUT_DIR" in done.stderr
    assert (tmp_path / "out/model/model.safetensors").exists()


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize(
    ("variable", "folder"),
    [("MODEL", "model"), ("MODEL", "model/checkpoint-4"), ("GENERATOR", "model/generator")],
)
def test_a_network_cannot_lie_where_the_result_is_to_go(run, own, tmp_path, variable, folder):
    leave(tmp_path, f"{folder}/config.json")
    done = run(SEQUENCE, **(own | {variable: f"./out/{folder}/"}))
    assert (done.returncode, done.calls) == (2, [])
    assert f"./out/{folder}/ lies in out/model, where the result is to go" in done.stderr
    assert (tmp_path / "out" / folder / "config.json").exists()


@pytest.mark.usefixtures("begun")
def test_an_interrupted_training_goes_on(run, own, tmp_path):
    leave(
        tmp_path,
        "index/manifest.json",
        "assembled/config.json",
        "model/checkpoint-4/trainer_state.json",
    )
    assert "--resume_from_checkpoint latest" in run(SEQUENCE, **own).calls[0]


def test_a_folder_made_from_other_inputs_is_refused_and_the_difference_shown(run, own, tmp_path):
    assert run(SEQUENCE, **own).returncode == 0
    leave(tmp_path, *STEPS)
    again = run(SEQUENCE, **own)
    assert again.returncode == 0, again.stderr
    (tmp_path / "other.tsv").write_text("x")
    other = run(SEQUENCE, **{**own, "PASSAGES": "other.tsv"})
    assert (other.returncode, other.calls, other.looked) == (2, [], [])
    assert (
        "error: out/index was made from other inputs. Choose another OUTPUT_DIR, or remove "
        "out/index out/assembled out/model." in other.stderr
    )
    assert "now:  PASSAGES=other.tsv" in other.stderr


def test_a_mistake_in_a_later_step_costs_nothing_that_is_made(run, own, tmp_path):
    assert run(SEQUENCE, "--", "--n_docs", "3", **own).returncode == 0
    leave(tmp_path, "index/manifest.json")
    (tmp_path / "other.json").write_text("x")
    done = run(SEQUENCE, "--", "--n_docs", "4", **(own | {"TRAIN_FILE": "other.json"}))
    assert done.returncode == 0, done.stderr
    assert [call.split()[3] for call in done.calls] == ["assemble", "train", "compare"]


def test_a_training_with_other_flags_takes_the_folder_of_the_former_one_away_alone(
    run, own, tmp_path
):
    assert run(SEQUENCE, "--", "--n_docs", "3", **own).returncode == 0
    leave(tmp_path, *STEPS)
    other = run(SEQUENCE, "--", "--n_docs", "4", **own)
    assert (other.returncode, other.calls) == (2, [])
    assert "Choose another OUTPUT_DIR, or remove out/model.\n" in other.stderr
    shutil.rmtree(tmp_path / "out/model")
    done = run(SEQUENCE, "--", "--n_docs", "4", **own)
    assert done.returncode == 0, done.stderr
    assert [call.split()[3] for call in done.calls] == ["train", "compare"]


@pytest.mark.parametrize("name", ["MODEL", "QUESTION_ENCODER", "CONTEXT_ENCODER", "GENERATOR"])
@pytest.mark.parametrize("path", ["/no/such", "./such", "data/no/such"])
def test_a_network_that_is_not_there_is_said_before_anything_is_made(
    run, own, tmp_path, name, path
):
    done = run(SEQUENCE, **(own | {name: path}))
    assert (done.returncode, done.calls, done.looked) == (2, [], [])
    assert f"error: {name} is '{path}': no such folder." in done.stderr
    assert not (tmp_path / "out").exists()


def test_questions_and_flags_are_looked_at_before_the_first_step(run, own, clone, tmp_path):
    done = run(SEQUENCE, "--", "--n_docs", "3", **own)
    assert done.looked == [
        "python -m rag_finetune train --dry_run --model_name_or_path out/assembled --train_file "
        "train_file --output_dir out/model --model_type rag_sequence --n_docs 3 "
    ]
    leave(tmp_path, *STEPS)
    assert run(SEQUENCE, "--", "--n_docs", "3", **own).looked == []  # it is done
    assert run(clone / SEQUENCE.name).looked == []  # the project's own
    (tmp_path / "tools/python").write_text('#!/bin/bash\n[[ "$*" != *dry_run* ]] || exit 7\n')
    done = run(SEQUENCE, **(own | {"OUTPUT_DIR": "third"}))
    assert done.returncode == 7
    assert not (tmp_path / "third").exists()


INPUTS = (
    "passages train.source train.target v.json t.json mine.yaml question_encoder/config.json "
    "context_encoder/1_Pooling/config.json generator/model.safetensors"
).split()


@pytest.mark.parametrize("changed", INPUTS)
def test_inputs_of_the_same_names_and_another_content_are_refused(run, own, tmp_path, changed):
    own |= {"TRAIN_FILE": "train.source", "VALIDATION_FILE": "v.json", "TEST_FILE": "t.json"}
    words = ("--", "--config", "mine.yaml")
    for name in INPUTS:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert run(SEQUENCE, *words, **own).returncode == 0
    leave(tmp_path, *STEPS, "evaluation/inputs.json")
    os.utime(tmp_path / changed, (1, 1))  # its content is the same
    assert run(SEQUENCE, *words, **own).returncode == 0
    (tmp_path / changed).write_text("changed")
    done = run(SEQUENCE, *words, **own)
    assert (done.returncode, done.calls) == (2, [])
    name = changed.split("/")[0]
    assert f"then: contents of {name}: " in done.stderr
    assert f"now:  contents of {name}: " in done.stderr
    assert done.stderr.count("now:") == 1


def test_a_folder_of_passages_counts_with_all_that_is_in_it(run, own, tmp_path):
    page = tmp_path / "docs/deep/er/page.md"
    page.parent.mkdir(parents=True)
    page.write_text("one")
    own |= {"PASSAGES": "docs"}
    assert run(SEQUENCE, **own).returncode == 0
    leave(tmp_path, *STEPS)
    (tmp_path / "docs/.DS_Store").write_text("hidden files are none of them")
    assert run(SEQUENCE, **own).returncode == 0
    page.write_text("two")
    assert "now:  contents of docs: " in run(SEQUENCE, **own).stderr


def test_the_recipe_and_the_starter_of_the_default_are_inputs_too(run, clone, tmp_path):
    assert run(clone / SEQUENCE.name).returncode == 0
    leave(tmp_path, *STEPS, folder="runs/rag_sequence")
    changed = ("configs/elements_rag_sequence.yaml", "data/starter/generator/config.json")
    for name in changed:
        assert run(clone / SEQUENCE.name).returncode == 0
        before = (clone / name).read_text()
        (clone / name).write_text(f"{before}\n")
        done = run(clone / SEQUENCE.name)
        assert (done.returncode, done.calls) == (2, [])
        assert done.stderr.count("now:") == 1
        (clone / name).write_text(before)


def test_a_folder_of_the_other_head_is_refused(run, own, tmp_path):
    assert run(SEQUENCE, MODEL="facebook/rag-sequence-nq", **own).returncode == 0
    leave(tmp_path, *STEPS)
    other = run(TOKEN, MODEL="facebook/rag-sequence-nq", **own)
    assert (other.returncode, other.calls) == (2, [])
    assert "now:  MODEL_TYPE=rag_token" in other.stderr


@pytest.mark.parametrize("missing", ["bm25s", "matplotlib"])
def test_an_environment_without_what_the_table_needs_is_not_taken(run, own, tmp_path, missing):
    told = f'case "$*" in *"-P -c"*" {missing}"*) exit 1 ;; esac\n'
    head, rest = STAND_IN.split("\n", 1)
    (tmp_path / "tools" / "python").write_text(f"{head}\n{told}{rest}")
    done = run(SEQUENCE, VENV="", PYTHON="false", **own)
    assert (done.returncode, done.calls) == (1, [])


@pytest.mark.usefixtures("begun")
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


def test_the_files_for_validation_and_test_are_used(run, own, tmp_path):
    for name in ("v.json", "t.json"):
        (tmp_path / name).write_text("[]")
    done = run(SEQUENCE, VALIDATION_FILE="v.json", TEST_FILE="t.json", **own)
    assert "--validation_file v.json" in done.calls[2]
    assert "--eval_files t.json --output_dir" in done.calls[3]
    assert "trained on" not in done.stdout


def test_the_validation_questions_are_tested_on_when_no_others_are_given(run, own, tmp_path):
    (tmp_path / "v.json").write_text("[]")
    assert (
        "--eval_files v.json --output_dir"
        in run(SEQUENCE, VALIDATION_FILE="v.json", **own).calls[3]
    )


def test_the_hub_names_are_the_defaults_for_own_passages(run, own):
    files = {name: own[name] for name in ("PASSAGES", "TRAIN_FILE")}
    done = run(SEQUENCE, **files)
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


@pytest.fixture
def clone(tmp_path):
    """The scripts and their data in a folder of their own, with the names of a starter model."""
    folder = tmp_path / "clone"
    for name in ("run_rag_sequence.sh", "run_rag_token.sh", ".ci", "configs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (folder).mkdir(exist_ok=True)
        copy(ROOT / name, folder / name)
    starter = folder / "data/starter/generator/config.json"
    starter.parent.mkdir(parents=True)
    starter.write_text("{}")
    return folder


@pytest.mark.parametrize("script", [SEQUENCE, TOKEN], ids=["sequence", "token"])
def test_the_default_is_the_starter_model_on_the_elements(run, clone, script):
    head = script.stem.removeprefix("run_")
    done = run(clone / script.name)
    assert done.returncode == 0, done.stderr
    index, other, assemble, train, compare = done.calls
    data = clone / "data"
    assert f"--passages {data}/elements/passages.tsv" in index
    assert f"--context_encoder {data}/starter/context_encoder" in index
    assert f"--passages {data}/elements/passages_counterfactual.tsv" in other
    assert f"--output_dir runs/{head}/index_counterfactual" in other
    assert f"--question_encoder {data}/starter/question_encoder" in assemble
    assert f"--generator {data}/starter/generator" in assemble
    assert f"--train_file {data}/elements/train.json" in train
    assert f"--validation_file {data}/elements/validation.json" in train
    assert f"--config {clone}/configs/elements_{head}.yaml" in train
    tests = f"{data}/elements/test.json {data}/elements/test_unseen.json"
    assert f"--eval_files {tests} --output_dir runs/{head}/evaluation" in compare
    assert f"--other_index runs/{head}/index_counterfactual" in compare
    assert f"--other_file {data}/elements/test_counterfactual.json" in compare
    assert "trained on" not in done.stdout


def test_a_recipe_of_ones_own_takes_the_place_of_ours(run, clone, tmp_path):
    (tmp_path / "mine.yaml").write_text("max_steps: 3\n")
    for words in (["--config", "mine.yaml"], ["--config=mine.yaml"]):
        done = run(clone / SEQUENCE.name, "--", *words, OUTPUT_DIR=f"of_{len(words)}")
        train = done.calls[3]
        assert train.count("--config") == 1 and train.endswith(f"{' '.join(words)} ")


def test_another_model_on_the_elements_goes_by_its_own_recipe(run, clone, tmp_path):
    (tmp_path / "t.json").write_text("[]")
    done = run(clone / SEQUENCE.name, MODEL="facebook/rag-sequence-nq", TEST_FILE="t.json")
    assert "data/starter" not in "".join(done.calls)
    assert "--config" not in "".join(done.calls)
    assert "--starting_model facebook/rag-sequence-nq" in done.calls[-1]
    assert "--eval_files t.json --output_dir" in done.calls[-1]
    assert "counterfactual" not in "".join(done.calls)
    assert "data/elements/validation.json" in done.calls[1]


def test_without_the_starter_model_nothing_is_begun(run, clone):
    shutil.rmtree(clone / "data/starter")
    done = run(clone / TOKEN.name)
    assert (done.returncode, done.calls) == (1, [])
    assert "generator/config.json is missing. Make it with data/starter/train_start" in done.stderr


def test_the_kinds_of_the_elements_questions_are_their_fields(run, clone):
    from rag_finetune.cli.compare import _kinds

    words = run(clone / SEQUENCE.name).calls[-1].split()
    kind_of = _kinds(words[words.index("--kind_pattern") + 1])
    assert kind_of("krypton-melting_point-1") == "melting_point"
    questions = json.loads((ROOT / "data/elements/train.json").read_text())
    kinds = {kind_of(question["id"]) for question in questions}
    assert len(kinds) == 17 and "" not in kinds


def test_an_environment_that_is_not_active_is_named_before_what_needs_it(run, own, tmp_path):
    active = run(SEQUENCE, **own)
    assert active.stdout.splitlines()[-1].startswith("Ask it: rag-finetune predict ")
    assert "activate" not in active.stdout
    made = tmp_path / "venv"
    (made / "bin").mkdir(parents=True)
    shutil.copy(tmp_path / "tools/python", made / "bin/python")
    (made / ".installed").write_text("")
    done = run(SEQUENCE, VENV="venv", **own)
    assert done.returncode == 0, done.stderr
    assert f"\nFirst, in this shell: . {made}/bin/activate\nAsk it: " in done.stdout


def test_a_failing_step_ends_the_script(run, own, tmp_path):
    fails = STAND_IN.replace("CALLS+=.dry", "exit 0").replace("echo >>", "exit 3; echo >>")
    (tmp_path / "tools" / "python").write_text(fails)
    done = run(SEQUENCE, **own)
    assert done.returncode == 3
    assert len(done.calls) == 1


def run_for_real(script, folder, monkeypatch, *words, **variables):
    for name in (*VARIABLES, "VENV", "MODEL_TYPE"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(
        [script, *words],
        cwd=folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def exact_match(output, questions, row):
    path = output / "evaluation" / questions / row / "metrics.json"
    return json.loads(path.read_text())["exact_match"]


has_python = pytest.mark.skipif(
    shutil.which("python") is None, reason="the environment has no `python`"
)


@pytest.fixture(scope="module")
def tiny_parts(tmp_path_factory):
    """The tiny networks of the project's data."""
    folder = tmp_path_factory.mktemp("tiny") / "parts"
    subprocess.run([sys.executable, ROOT / "data/tiny/make_models.py", folder], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@has_python
def test_tiny_models_memorise_and_a_second_run_prints_the_same_table(
    tiny_parts, tmp_path, monkeypatch
):
    """RAG-Token, all steps twice. The other script, which is this one's, is the README's first."""
    tiny = ROOT / "data/tiny"
    variables = {
        name.upper(): str(tiny_parts / name)
        for name in ("question_encoder", "context_encoder", "generator")
    }
    variables |= {"PASSAGES": str(tiny / "passages.tsv"), "OUTPUT_DIR": "out"}
    variables |= dict.fromkeys(("TRAIN_FILE", "VALIDATION_FILE"), str(tiny / "train.json"))
    words = ("--", "--config", str(ROOT / "configs/tiny.yaml"))
    first = run_for_real(TOKEN, tmp_path, monkeypatch, *words, **variables)
    assert exact_match(tmp_path / "out", "train", "fine_tuned") >= 0.8
    assert exact_match(tmp_path / "out", "train", "starting") == 0.0
    again = run_for_real(TOKEN, tmp_path, monkeypatch, *words, **variables)
    start = first.index("\nper cent")
    assert first[start:] == again[again.index("\nper cent") :]
