"""Every block of the README, run in order in a copy of the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rag_finetune.data.formats import FORMATS
from rag_finetune.data.passages import load_passages
from rag_finetune.data.qa import load_questions
from rag_finetune.data.qa_formats import QA_FORMATS

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
# What the blocks of these languages are for: `text` shows the user's own file names.
LANGUAGES = {"bash", "python", "json", "text"}
FIRST_RUN = re.compile(r"^(\./run_rag_sequence\.sh)$", re.M)


def blocks(language: str) -> list[str]:
    return [body for found, body in BLOCKS if found == language]


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # two tests run at once
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme") / "checkout"
    skipped = shutil.ignore_patterns(".git", ".venv", ".ci-venv", "runs", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder, ignore=skipped)
    return folder


def test_every_block_is_of_a_kind_that_is_tested():
    assert {language for language, _ in BLOCKS} == LANGUAGES


def test_the_first_run_is_found_where_it_is_to_be_shortened():
    assert [len(FIRST_RUN.findall(body)) for body in blocks("bash")].count(1) == 1


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_commands_and_the_python_run_in_order(checkout):
    printed = []
    keep_every_fourth_question(checkout / "data/elements")
    for language, body in BLOCKS:
        if language == "bash":
            # Neither the tests nor the benchmarks are run: what make would do must be there.
            body = re.sub("^make ", "make -n ", body, flags=re.M)
            # The first run in half of its steps: what it reaches stands in the configuration.
            body = FIRST_RUN.sub(r"\1 -- --max_steps 125 --max_eval_samples 40", body)
            printed.append(run(["bash", "-euo", "pipefail", "-c", body], checkout))
        elif language == "python":
            printed.append(run([sys.executable, "-c", body], checkout))
    everything = "\n".join(printed)
    assert "2 process(es)" in everything
    assert "exact_match" in everything
    assert "Ada Quill" in everything
    the_first_run_learnt(checkout / "runs/rag_sequence")
    files = {path.name for path in (checkout / "runs/example/model").iterdir()}
    described = (ROOT / "README.md").read_text()
    for name in files:
        known = "checkpoint-N/" if name.startswith("checkpoint-") else name
        assert f"`{known}" in described or f"`{known}/`" in described, name


def keep_every_fourth_question(folder: Path) -> None:
    """Of the tests, for the time it takes; of their counterfactual edition, the same ones."""
    kept: set[str] = set()
    for name in ("test", "test_unseen"):
        path = folder / f"{name}.json"
        rows = json.loads(path.read_text(encoding="utf-8"))[::4]
        path.write_text(json.dumps(rows), encoding="utf-8")
        kept |= {row["id"] for row in rows}
    path = folder / "test_counterfactual.json"
    rows = [row for row in json.loads(path.read_text(encoding="utf-8")) if row["id"] in kept]
    path.write_text(json.dumps(rows), encoding="utf-8")


def the_first_run_learnt(output: Path) -> None:
    """The script's default: the knowledge is in the index, and training was worth it.

    Half of the steps are enough to show it on a quarter of the questions.
    """
    assert (output / "model/training.png").exists()
    for questions in ("test", "test_unseen"):
        figures = {
            row: json.loads((output / "evaluation" / questions / row / "metrics.json").read_text())
            for row in ("most_frequent", "closed_book", "bm25", "starting", "fine_tuned")
        }
        scores = {row: found["exact_match"] for row, found in figures.items()}
        without_passages = max(scores["most_frequent"], scores["closed_book"])
        assert scores["fine_tuned"] >= without_passages + 0.5, scores
        assert scores["fine_tuned"] > max(scores["starting"], scores["bm25"]), scores


def test_the_json_block_is_read(tmp_path):
    [body] = blocks("json")
    path = tmp_path / "train.json"
    path.write_text(body)
    assert load_questions(path)["answers"][1] == ["Port Wend"]
    assert json.loads(body)[0]["positive_ids"] == ["2"]


def test_the_variables_of_the_example_are_those_of_the_script():
    body = blocks("text")[0]
    script = (ROOT / "run_rag_sequence.sh").read_text()
    for variable in re.findall(r"([A-Z_]+)=", body):
        assert f"${{{variable}" in script, variable


def test_the_table_of_defaults_is_true():
    from rag_finetune.training.arguments import RagTrainingArguments

    fields = RagTrainingArguments.__dataclass_fields__
    rows = re.findall(r"^\| (`--.*?) \| (.*?) \|", (ROOT / "README.md").read_text(), re.M)
    checked = 0
    for flags, defaults in rows:
        names = re.findall(r"`--(\w+)`", flags)
        values = [value.strip().strip("`") for value in defaults.split(",")]
        for name, value in zip(names, values * len(names), strict=False):
            default = fields[name].default if name in fields else None
            if isinstance(default, int | float | str) and not isinstance(default, bool):
                expected = float(value) if not isinstance(default, str) else value
                assert expected == default, name
                checked += 1
    assert checked >= 10


def table_after(heading: str) -> dict[str, str]:
    """First and second cell of each row of the table whose first heading this is."""
    text = (ROOT / "README.md").read_text().partition(f"| {heading} | example")[2]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", text.partition("\n\n")[0], re.M)
    return {name: cell for names, cell in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_tables_of_formats_name_every_format():
    assert sorted(table_after("passages")) == sorted(FORMATS)
    assert sorted(table_after("questions")) == sorted(QA_FORMATS)


@pytest.mark.parametrize("name", ["json", "nq_open", "dpr", "flashrag", "squad"])
def test_the_examples_of_questions_are_read(tmp_path, name):
    [example] = re.findall(r"`(\{.*\})`", table_after("questions")[name].partition(";")[0])
    (tmp_path / "q.json").write_text(example if name == "squad" else f"[{example}]")
    [row] = load_questions(tmp_path / "q.json", qa_format=name)
    assert row["question"] == "Who?" and row["answers"][0] == "Ada"


@pytest.mark.parametrize("name", ["jsonl", "flashrag"])
def test_the_examples_of_passages_are_read(tmp_path, name):
    (tmp_path / "p.jsonl").write_text(table_after("passages")[name].strip("`"))
    [row] = load_passages(tmp_path / "p.jsonl", passages_format=name)
    assert row["text"] == "Ada Quill built it." and row["title"] == "Harbour"
