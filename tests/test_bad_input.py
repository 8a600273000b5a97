"""Bad input, through the command line: one line that says what to do, and nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import faiss
import pytest
from datasets import Dataset, DatasetDict
from tiny_job import (
    assemble_words,
    files_under,
    index_words,
    ok,
    run,
    tiny_job,
    train_words,
)

ROOT = Path(__file__).resolve().parents[1]


class Bad(NamedTuple):
    """A command that must fail.

    Attributes:
        words: from the folder of the inputs, copied for this case, and a path for the output.
        says: what the line on stderr must hold: where, what was found, the remedy.
        code: 1 for what failed, 2 for wrong usage.
    """

    words: Callable[[Path, Path], list[object]]
    says: tuple[str, ...]
    code: int = 1


def index_of(write: Callable[[Path], object], name: str = "bad.jsonl") -> Callable:
    """`index` on a file of passages that `write` makes."""

    def words(job: Path, out: Path) -> list[object]:
        write(job / name)
        encoder = job / "parts/context_encoder"
        return [
            *("index", "--passages", job / name, "--context_encoder", encoder),
            *("--output_dir", out),
        ]

    return words


def index_with(*more: object) -> Callable:
    """`index` on the good passages, with further flags."""
    return lambda job, out: [*index_words(job, out), *more]


def train_on(write: Callable[[Path], object], name: str = "bad.json") -> Callable:
    """`train` on a file of questions that `write` makes."""

    def words(job: Path, out: Path) -> list[object]:
        write(job / name)
        return replaced(train_words(job, out), "--train_file", job / name)

    return words


def damaged(damage: Callable[[Path], object], *more: object) -> Callable:
    """`train` after `damage` was done to the folder of the inputs."""

    def words(job: Path, out: Path) -> list[object]:
        damage(job)
        return [*train_words(job, out), *more]

    return words


def evaluate_with(*more: object, damage: Callable[[Path], object] = lambda job: None) -> Callable:
    """`evaluate` of the trained checkpoint, with further flags."""

    def words(job: Path, out: Path) -> list[object]:
        damage(job)
        return [
            *("evaluate", "--model_name_or_path", job / "run", "--eval_file", job / "train.json"),
            *("--output_dir", out, *more),
        ]

    return words


def replaced(words: list[str], flag: str, value: object) -> list[object]:
    """The words with another value behind a flag."""
    at = words.index(flag) + 1
    return [*words[:at], value, *words[at + 1 :]]


def jsonl(*rows: object) -> Callable[[Path], object]:
    return lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def text(content: str | bytes) -> Callable[[Path], object]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda path: path.write_bytes(raw)


def broken_line_17(path: Path) -> None:
    good = '{"id": "%d", "title": "t", "text": "a text", "question": "q?", "answer": "a"}\n'
    path.write_text("".join(good % row for row in range(16)) + '{"text": "no end\n')


def other_index(job: Path) -> None:
    """An index of an encoder with other weights takes the place of the index."""
    import tiny_rag

    shutil.rmtree(job / "index")
    encoder = tiny_rag.context_encoder()
    encoder.model.ctx_encoder.bert_model.embeddings.word_embeddings.weight.data += 1.0
    encoder.name = "another_encoder"
    from rag_finetune.index.build import build_index

    build_index(tiny_rag.passages(), encoder, job / "index")


def wide_index(job: Path, out: Path) -> list[object]:
    """`assemble` with an index of vectors of another length."""
    import tiny_rag
    from transformers import DPRConfig, DPRContextEncoder

    from rag_finetune.encoders.text_encoder import TextEncoder
    from rag_finetune.index.build import build_index

    shutil.rmtree(job / "index")
    small = tiny_rag.context_encoder()
    config = DPRConfig(**{**small.model.config.to_dict(), "projection_dim": 24})
    wide = TextEncoder(DPRContextEncoder(config), small.tokenizer, 64)
    build_index(tiny_rag.passages(), wide, job / "index")
    return [*assemble_words(job, out), "--index", job / "index"]


def l2_index(job: Path) -> None:
    index = faiss.read_index(str(job / "index/dense.faiss"))
    wrong = faiss.IndexFlatL2(index.d)
    wrong.add(index.reconstruct_n(0, index.ntotal))
    faiss.write_index(wrong, str(job / "index/dense.faiss"))


def cut_file(name: str, length: int) -> Callable[[Path], None]:
    def cut(job: Path) -> None:
        path = job / name
        path.write_bytes(path.read_bytes()[:length])

    return cut


def edit_json(name: str, **changes: object) -> Callable[[Path], None]:
    def edit(job: Path) -> None:
        path = job / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def remove(name: str) -> Callable[[Path], None]:
    def go(job: Path) -> None:
        path = job / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return go


def no_index(job: Path) -> None:
    remove("assembled/rag_index.json")(job)


def recipe(content: str) -> Callable:
    def words(job: Path, out: Path) -> list[object]:
        (job / "recipe.yaml").write_text(content)
        return [*train_words(job, out), "--config", job / "recipe.yaml"]

    return words


def split_dataset(path: Path) -> None:
    DatasetDict(train=Dataset.from_dict({"text": ["a"]})).save_to_disk(str(path))


GOOD = {"question": "what ?", "answers": ["red"]}

BAD = {
    # --- passages
    "passages missing": Bad(
        lambda job, out: replaced(index_words(job, out), "--passages", job / "nothing.tsv"),
        ("nothing.tsv", "found nothing there", "Check the path"),
    ),
    "wrong column": Bad(
        index_of(text("id\ttexts\ttitle\n1\ta\tb\n"), "bad.tsv"),
        ("bad.tsv:1", "expected a header", '"texts"', 'Rename "texts" to "text"'),
    ),
    "empty file": Bad(index_of(text("")), ("bad.jsonl", "expected passages", "Check the file")),
    "header alone": Bad(
        index_of(text("id\ttext\ttitle\n"), "bad.tsv"), ("bad.tsv", "no row with text")
    ),
    "no text at all": Bad(
        index_of(jsonl({"text": ""}, {"text": None})), ("bad.jsonl", "no row with text")
    ),
    "title is a number": Bad(
        index_of(jsonl({"title": 5, "text": "a"})), ('bad.jsonl:1: "title"', "the number 5")
    ),
    "broken JSON on line 17": Bad(index_of(broken_line_17), ("bad.jsonl:17", "ends too soon")),
    "mixed encodings": Bad(
        index_of(text(b'{"text": "ok"}\n{"text": "caf\xe9"}\n')),
        ("bad.jsonl:2", "0xe9", "Save the file as UTF-8"),
    ),
    "UTF-16": Bad(
        index_of(text('{"text": "ok"}\n'.encode("utf-16"))), ("bad.jsonl:1", "UTF-8", "0xff")
    ),
    "id twice": Bad(
        index_of(jsonl({"id": 1, "text": "a"}, {"id": 1, "text": "b"})),
        ('"1"', "bad.jsonl:1", "bad.jsonl:2", "its own id"),
    ),
    "unknown extension": Bad(index_of(text("a"), "bad.docx"), ("bad.docx", ".tsv", ".pdf")),
    "unbalanced quote": Bad(
        index_of(text('id\ttext\ttitle\n1\t"open\tb\n'), "bad.tsv"), ("bad.tsv:2", "quote")
    ),
    "splits instead of rows": Bad(index_of(split_dataset, "splits"), ("splits", "train")),
    "empty folder": Bad(index_of(lambda path: path.mkdir(), "docs"), ("docs", ".txt")),
    "BEIR folder without corpus": Bad(
        index_of(lambda path: (path / "qrels").mkdir(parents=True), "beir"), ("beir",)
    ),
    "negative words": Bad(
        index_with("--passage_words", -1), ("passage_words", "found -1", "Write 0")
    ),
    "overlap as long as the passage": Bad(
        index_with("--passage_words", 20, "--overlap", 20), ("overlap", "20")
    ),
    "unknown layout": Bad(index_with("--passages_format", "exel"), ("exel",), 2),
    "no passages named": Bad(
        lambda job, out: [
            *("index", "--context_encoder", job / "parts/context_encoder", "--output_dir", out)
        ],
        ("--passages", "--from_questions"),
        2,
    ),
    # --- index
    "context encoder missing": Bad(
        lambda job, out: replaced(
            index_words(job, out), "--context_encoder", job / "parts/context_encodr"
        ),
        ("no such folder", "Did you mean", "context_encoder"),
    ),
    "a generator as encoder": Bad(
        lambda job, out: replaced(
            index_words(job, out), "--context_encoder", job / "parts/generator"
        ),
        ("generator", "bart"),
    ),
    "encoder without tokenizer": Bad(
        lambda job, out: [
            remove("parts/context_encoder/tokenizer.json")(job),
            *index_words(job, out),
        ][1:],
        ("context_encoder", "tokenizer"),
    ),
    "unknown index type": Bad(index_with("--index_type", "HNSV32,Foo"), ("HNSV32,Foo", "flat")),
    "unknown dtype": Bad(index_with("--dtype", "float8"), ("--dtype", "bfloat16"), 2),
    "output under /proc": Bad(lambda job, out: index_words(job, Path("/proc/index")), ("/proc",)),
    "output is a file": Bad(
        lambda job, out: index_words(job, job / "train.json"),
        ("train.json", "another folder"),
    ),
    # --- assemble
    "question encoder missing": Bad(
        lambda job, out: replaced(assemble_words(job, out), "--question_encoder", "./nowhere"),
        ("nowhere", "no such folder"),
    ),
    "an encoder as generator": Bad(
        lambda job, out: replaced(
            assemble_words(job, out), "--generator", job / "parts/question_encoder"
        ),
        ("question_encoder", "dpr", "BART or T5"),
    ),
    "n_docs 0": Bad(
        lambda job, out: [*assemble_words(job, out), "--n_docs", 0],
        ("n_docs must be at least 1", "found 0"),
    ),
    "scale 0": Bad(
        lambda job, out: [*assemble_words(job, out), "--scale", 0], ("scale", "found 0")
    ),
    "another dimension": Bad(wide_index, ("dimension", "16", "24", "Build the index")),
    # --- train
    "answers of the wrong type": Bad(
        train_on(jsonl(GOOD, {"question": "q?", "answers": "red"}), "bad.jsonl"),
        ('bad.jsonl:2: "answers"', 'the string "red"', 'Write ["red"]'),
    ),
    "questions without answers": Bad(
        train_on(jsonl({"question": "q?", "context": "red house"}), "bad.jsonl"),
        ("bad.jsonl:1", "answer"),
    ),
    "question is null": Bad(
        train_on(jsonl({"question": None, "answer": "a"}), "bad.jsonl"),
        ('bad.jsonl:1: "question"', "found null"),
    ),
    "a folder for a file": Bad(
        lambda job, out: replaced(train_words(job, out), "--train_file", job / "parts"),
        ("parts", "found a folder"),
    ),
    "no question": Bad(train_on(text("[]")), ("bad.json", "at least one question")),
    "another encoder's index": Bad(
        damaged(other_index), ("fingerprint", "another_encoder", "build one")
    ),
    "L2 index": Bad(damaged(l2_index), ("dense.faiss", "inner-product", "rag-finetune index")),
    "FAISS file cut in the middle": Bad(
        damaged(cut_file("index/dense.faiss", 400)), ("dense.faiss", "Build the index again")
    ),
    "FAISS file cut to a stump": Bad(
        damaged(cut_file("index/dense.faiss", 29)), ("dense.faiss", "Build the index again")
    ),
    "manifest of later format": Bad(
        damaged(edit_json("index/manifest.json", format_version=99)),
        ("manifest.json", "format_version", "99"),
    ),
    "manifest gone": Bad(
        damaged(remove("index/manifest.json")), ("manifest.json is missing", "rag-finetune index")
    ),
    "passages gone": Bad(damaged(remove("index/passages")), ("passages", "Build the index again")),
    "tokenizer folder gone": Bad(
        damaged(remove("assembled/generator_tokenizer")), ("generator_tokenizer",)
    ),
    "weights gone": Bad(damaged(remove("assembled/model.safetensors")), ("model.safetensors",)),
    "wiki_dpr": Bad(
        damaged(
            lambda job: (
                no_index(job),
                edit_json("assembled/config.json", index_name="exact", dataset="wiki_dpr")(job),
            )
        ),
        ("wiki_dpr", "rag-finetune index", "--index"),
    ),
    "a pickle of passages": Bad(
        damaged(
            lambda job: (
                no_index(job),
                edit_json(
                    "assembled/config.json", index_name="custom", passages_path="psgs_w100.pkl"
                )(job),
            )
        ),
        (".pkl", "rag-finetune index"),
    ),
    "no index anywhere": Bad(damaged(no_index), ("--index",)),
    "not one training question": Bad(
        damaged(lambda job: None, "--max_train_samples", 0), ("max_train_samples", "at least 1")
    ),
    "a rate that is no number": Bad(
        damaged(lambda job: None, "--learning_rate", "3e-5x"), ("--learning_rate",), 2
    ),
    "misspelt key in a recipe": Bad(
        recipe("lerning_rate: 3e-5\n"), ("recipe.yaml:1", "lerning_rate", "learning_rate")
    ),
    "a list where a file was meant": Bad(
        recipe("train_file: [a.json, b.json]\n"),
        ("recipe.yaml", 'a list with "b.json"', "one value is meant"),
        2,
    ),
    "a recipe that is no YAML": Bad(recipe("a: [1\nb: 2\n"), ("recipe.yaml",)),
    "resume from nothing": Bad(
        damaged(lambda job: None, "--resume_from_checkpoint", "latest"), ("no whole checkpoint",)
    ),
    # --- evaluate, predict, search
    "evaluate with n_docs 0": Bad(evaluate_with("--n_docs", 0), ("n_docs", "found 0")),
    "the index has moved away": Bad(
        evaluate_with(damage=remove("run/index")), ("no longer there", "--index")
    ),
    "mistyped head": Bad(evaluate_with("--decoding", "slow"), ("--decoding", "thorough"), 2),
    "broken questions": Bad(
        lambda job, out: [
            broken_line_17(job / "bad.jsonl"),
            *("predict", "--model_name_or_path", job / "run", "--questions", job / "bad.jsonl"),
        ][1:],
        ("bad.jsonl:17",),
    ),
    "k 0": Bad(
        lambda job, out: ["search", "--model_name_or_path", job / "run", "--k", 0, "what ?"],
        ("--n_docs must be at least 1",),
    ),
    "no such command": Bad(lambda job, out: ["serach"], ('"search"',), 2),
}


@pytest.fixture
def job(tmp_path) -> Path:
    """The inputs, index/, assembled/ and run/, to damage."""
    return shutil.copytree(tiny_job(), tmp_path / "job", ignore=shutil.ignore_patterns("learnt"))


def test_there_are_forty():
    assert len(BAD) >= 40


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_with_the_remedy_and_leaves_nothing(name, job, tmp_path):
    bad, out = BAD[name], tmp_path / "out"
    words = bad.words(job, out)
    before = {path: (job / path).read_bytes() for path in files_under(job)}
    done = run(*words)
    assert done.code == bad.code, done
    line = [line for line in done.err.splitlines() if "error:" in line]
    assert len(line) == 1 and line[0] == done.err.splitlines()[-1], done.err
    for part in bad.says:
        assert part in line[0]
    assert "Traceback" not in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job"], "something is left"
    assert {path: (job / path).read_bytes() for path in files_under(job)} == before


def test_more_passages_than_there_are_is_a_warning(job, tmp_path):
    with pytest.warns(UserWarning, match="n_docs 50 is more than the 20 passages"):
        ok(*evaluate_with("--n_docs", 50)(job, tmp_path / "out"))


def executable(*words: object, **more) -> subprocess.CompletedProcess:
    """The command as a shell starts it."""
    command = [str(Path(sys.executable).with_name("rag-finetune")), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONUNBUFFERED", None)  # nothing would be left to write at exit
    return subprocess.run(command, text=True, stderr=subprocess.PIPE, env=environment, **more)


def test_executable_on_a_missing_file(job, tmp_path):
    words = replaced(index_words(job, tmp_path / "out"), "--passages", "nothing.tsv")
    done = executable(*words, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "nothing.tsv: expected a file, found nothing there" in done.stderr


def test_executable_with_wrong_usage(job, tmp_path):
    words = [*train_words(job, tmp_path / "out"), "--lerning_rate", "1"]
    done = executable(*words, stdout=subprocess.PIPE)
    assert done.returncode == 2
    assert "--learning_rate" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_executable_that_writes_to_a_full_disk(job):
    questions = job / "questions.txt"
    questions.write_text("what is the house of ada ?\n")
    words = ["predict", "--model_name_or_path", job / "run", "--questions", questions]
    with open("/dev/full", "w") as full:
        done = executable(*words, stdout=full)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert line.startswith("rag-finetune predict: error: ") and "No space left" in line
