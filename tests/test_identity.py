import shutil
from pathlib import Path

import pytest
from light_imports import assert_imports_none_of
from tiny_job import index_words, learnt_checkpoint, ok, tiny_job

from rag_finetune.evaluation.identity import (
    identify_checkpoint,
    identify_index,
    identify_questions,
)


def test_importing_it_imports_no_torch():
    assert_imports_none_of(
        {"torch", "transformers", "datasets"}, "import rag_finetune.evaluation.identity"
    )


def test_a_folder_is_the_same_however_it_is_spelt(monkeypatch):
    folder = learnt_checkpoint()
    monkeypatch.chdir(folder.parent)
    for identify, path in ((identify_checkpoint, folder), (identify_index, folder / "index")):
        known = identify(str(path))
        assert known == identify(f"{path}/") == identify(f"{path.parent}/./{path.name}")
        assert known == identify(str(path.relative_to(folder.parent)))
        assert set(known) == {"path", "sha256"}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("config.json", True),
        ("generation_config.json", True),
        ("model.safetensors", True),
        ("generator_tokenizer/tokenizer.json", True),
        ("README.md", False),
        ("trainer_state.json", False),
        ("checkpoint-2/config.json", False),
    ],
)
def test_of_a_checkpoint_counts_what_its_answers_depend_on(tmp_path, name, counts):
    shutil.copytree(learnt_checkpoint(), tmp_path / "model")
    before = identify_checkpoint(str(tmp_path / "model"))
    file = tmp_path / "model" / name
    assert file.exists() or not counts
    file.parent.mkdir(exist_ok=True)
    with open(file, "a") as opened:
        opened.write(" ")
    assert (identify_checkpoint(str(tmp_path / "model")) != before) is counts


def test_what_is_not_here_is_known_by_its_name():
    assert identify_checkpoint("facebook/rag-token-nq") == {"name": "facebook/rag-token-nq"}


def test_an_index_of_passages_of_the_same_sizes_is_another(tmp_path):
    job = tiny_job()
    shutil.copytree(job / "parts", tmp_path / "parts")
    text = (job / "passages.jsonl").read_text()
    (tmp_path / "passages.jsonl").write_text(text)
    ok(*index_words(tmp_path, tmp_path / "index"))
    before = identify_index(tmp_path / "index")
    manifest = (tmp_path / "index/manifest.json").read_bytes()
    (tmp_path / "passages.jsonl").write_text(text.replace("tess", "sets"))
    shutil.rmtree(tmp_path / "index")
    ok(*index_words(tmp_path, tmp_path / "index"))
    assert (tmp_path / "index/manifest.json").read_bytes() == manifest
    assert identify_index(tmp_path / "index") != before


@pytest.mark.parametrize(
    ("asked", "beside"),
    [("train.json", None), ("train.source", "train.target"), ("qrels/test.tsv", "queries.jsonl")],
)
def test_questions_are_known_by_all_that_is_read(tmp_path, asked, beside):
    file = tmp_path / asked
    file.parent.mkdir(exist_ok=True)
    file.write_text("query-id\tcorpus-id\tscore\n")
    if beside:
        (tmp_path / beside).write_text("x")
    before = identify_questions(file)
    assert before == identify_questions(Path(f"{tmp_path}/./{asked}"))
    (tmp_path / (beside or asked)).write_text("another")
    assert identify_questions(file) != before
