import json
import shutil
from pathlib import Path

import pytest
from tiny_job import error_of, index_words, ok, tiny_job, usage_error_of, write_inputs

from rag_finetune.index.store import open_index

LONG = " ".join(["the house of ada is red ."] * 30)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """An index of passages of ten words, that tests leave as it is."""
    folder = tmp_path_factory.mktemp("cli-update")
    write_inputs(folder)
    ok(*index_words(folder, folder / "index"), "--passage_words", 10)
    return folder / "index"


@pytest.fixture
def index(built, tmp_path) -> Path:
    return shutil.copytree(built, tmp_path / "index")


def write(path: Path, *rows: tuple[str, str]) -> Path:
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in rows))
    return path


def ids(index: Path) -> list[str]:
    return open_index(index).passages["id"][:]


def test_documents_are_added_replaced_and_removed_in_one_command(index, tmp_path):
    new = write(tmp_path / "new.jsonl", ("x", "a dog lives here"))
    changed = write(tmp_path / "changed.jsonl", ("2", "old house"), ("5", "red house"))
    before = ids(index)
    words = ["--add", new, "--replace", changed, "--remove", "1", "7"]
    done = ok("update", "--index", index, *words)
    gone = {name for name in before if name.partition("#")[0] in ("1", "7")}
    kept = [name.partition("#")[0] for name in before if name not in gone]
    after = ids(index)
    assert [name.partition("#")[0] for name in after] != kept
    assert [name for name in after if name in ("2", "5", "x")] == ["2", "5", "x"]
    assert not gone & set(after) and after[-1] == "x"
    assert "Passages: 1 added, 2 in place of" in done.out
    assert f"exact index of {len(after)} passages" in done.out.splitlines()[-1]
    assert "made already" in ok("update", "--index", index, *words).out


@pytest.mark.filterwarnings("ignore:.*compact it", "ignore:.*less than 90%")
def test_vectors_of_passages_that_are_gone_are_told_with_the_remedy(tmp_path):
    words = index_words(tiny_job(), tmp_path / "index")
    ok(*words, "--index_type", "HNSW8,Flat")
    done = ok("update", "--index", tmp_path / "index", "--remove", "1", "7")
    last = done.out.splitlines()[-1]
    assert last.startswith("2 vectors in its FAISS file are of passages that are gone.")
    remedy = f"rag-finetune compact --index {tmp_path / 'index'}"
    assert last.endswith(f"plain RagRetriever refuses the index until it is compacted: {remedy}")
    ok(*remedy.split()[1:])
    assert open_index(tmp_path / "index").manifest.tombstones == 0


def test_documents_are_cut_as_the_others_were(index, tmp_path):
    ok("update", "--index", index, "--add", write(tmp_path / "new.jsonl", ("x", LONG)))
    found = [row for row in open_index(index).passages.to_list() if row["document_id"] == "x"]
    assert [row["id"] for row in found] == [f"x#{n}" for n in range(1, 22)]
    assert max(len(row["text"].split()) for row in found) == 10


def test_ids_to_remove_may_stand_in_a_file(index, tmp_path, monkeypatch):
    (tmp_path / "gone.txt").write_text("3\n\n4\r\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ok("update", "--index", index, "--remove", "gone.txt", "5")
    assert not {name.partition("#")[0] for name in ids(index)} & {"3", "4", "5"}


def test_an_id_is_no_file_of_the_same_name(index, tmp_path, monkeypatch):
    (tmp_path / "3").write_text("4\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ok("update", "--index", index, "--remove", "3")
    assert "4" in {name.partition("#")[0] for name in ids(index)}
    assert "3" not in {name.partition("#")[0] for name in ids(index)}


def test_what_is_wrong_is_one_line_and_changes_nothing(index, tmp_path):
    before = ids(index)
    there = write(tmp_path / "there.jsonl", ("2", "old house"))
    absent = write(tmp_path / "absent.jsonl", ("x", "old house"))
    assert '"nowhere": to be removed' in error_of("update", "--index", index, "--remove", "nowhere")
    assert "(--replace)" in error_of("update", "--index", index, "--add", there)
    assert "(--add)" in error_of("update", "--index", index, "--replace", absent)
    assert "no.tsv" in error_of("update", "--index", index, "--add", tmp_path / "no.tsv")
    assert "no such folder" in error_of("update", "--index", tmp_path / "no", "--remove", "1")
    assert ids(index) == before


def test_nothing_to_do_is_wrong_usage(index):
    assert "give --add, --replace or --remove" in usage_error_of("update", "--index", index)


def test_several_processes_are_refused(index, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "the work of one process" in error_of("update", "--index", index, "--remove", "1")


def test_passages_that_are_too_long_are_told_with_their_place(index, tmp_path):
    short = write(tmp_path / "short.jsonl", ("s", "old house"))
    index_words_ = index_words(tmp_path, tmp_path / "whole")
    write_inputs(tmp_path)
    ok(*index_words_, "--passage_words", 0)
    long = write(tmp_path / "long.jsonl", ("x", "a"), ("y", LONG))
    with pytest.warns(UserWarning, match=r"1 of 3 passages reach .*long.jsonl:2"):
        ok("update", "--index", tmp_path / "whole", "--add", short, long)


def test_a_checkpoint_finds_the_index_that_was_updated(tmp_path):
    job = shutil.copytree(tiny_job(), tmp_path / "job")
    folder = job / "run" / "index"
    ok("update", "--index", folder, "--remove", "1")
    found = ok("search", "--model_name_or_path", job / "run", "--k", 20, "what is the house ?")
    assert len(open_index(folder)) == 19
    assert not [line for line in found.out.splitlines() if line.split()[2:3] == ["1"]]
