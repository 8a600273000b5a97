"""Each command of "Which training do I need?" runs, on few questions and for one step."""

import contextlib
import importlib
import io
import json
import re
import shutil

import pytest
from conftest import ROOT

from rag_finetune.__main__ import COMMANDS, main

STARTER = "data/starter"
ONE_STEP = ["--max_steps", "1", "--per_device_train_batch_size", "4"]
# Its configuration says when it validates and saves, which would come after the one step.
SHORTENED = {"train-causal": [*ONE_STEP, "--eval_strategy", "no", "--save_strategy", "no"]}


def advised() -> list[list[str]]:
    """The commands of the table, as words."""
    text = (ROOT / "README.md").read_text().partition("### Which training do I need?")[2]
    rows = re.findall(r"`rag-finetune ([^`]+)`", text.partition("\n### ")[0])
    return [row.split() for row in rows]


@pytest.mark.parametrize("words", advised(), ids=lambda words: "-".join(words[:4]))
def test_every_training_that_is_advised_has_its_flags_and_files(words):
    """The flags are read, and each folder or file that is named ships or comes of the first run."""
    module = importlib.import_module(f"rag_finetune.cli.{words[0].replace('-', '_')}")
    flags = {word for word in words if word.startswith("--")}
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        module.main(["--help"])
    assert flags <= set(re.findall(r"--\w+", shown.getvalue()))
    for word in words:
        if word.startswith("data/"):
            assert (ROOT / word).exists(), word


@pytest.fixture
def first_run(tmp_path, monkeypatch):
    """A folder with what `run_rag_sequence.sh` leaves, untrained, and with fewer questions."""
    shutil.copytree(ROOT / "data", tmp_path / "data")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    for name, step in (("train", 40), ("validation", 20)):
        path = tmp_path / "data" / "elements" / f"{name}.json"
        rows = json.loads(path.read_text(encoding="utf-8"))[::step]
        path.write_text(json.dumps(rows), encoding="utf-8")
    index = ["--passages", "data/elements/passages.tsv", "--output_dir", "runs/rag_sequence/index"]
    assert main(["index", *index, "--context_encoder", f"{STARTER}/context_encoder"]) == 0
    parts = ["--question_encoder", f"{STARTER}/question_encoder"]
    parts += ["--generator", f"{STARTER}/generator", "--index", "runs/rag_sequence/index"]
    for name in ("assembled", "model"):
        output = ["--output_dir", f"runs/rag_sequence/{name}"]
        assert main(["assemble", "--model_type", "rag_sequence", *parts, *output]) == 0
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_training_that_is_advised_runs(first_run, capsys):
    for words in advised():
        shorter = SHORTENED.get(words[0], ONE_STEP if words[0].startswith("train") else [])
        code = main([*words, *shorter])
        assert code == 0, (words, capsys.readouterr().err[-2000:])
        if "--output_dir" in words:
            assert any((first_run / words[words.index("--output_dir") + 1]).iterdir()), words


def test_every_training_command_is_advised_to_somebody():
    names = {words[0] for words in advised()}
    assert {name for name in COMMANDS if name.startswith("train")} <= names
