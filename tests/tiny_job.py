"""The commands run in this process, and the whole job on the twenty facts, done once a process."""

import atexit
import contextlib
import functools
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import tiny_rag
from trained_rag import trained_rag

from rag_finetune.__main__ import main
from rag_finetune.rag.checkpoint import place_index, save_rag

QUICK = (
    "--max_steps 3 --warmup_steps 0 --learning_rate 1e-3 --max_target_length 8 --disable_tqdm true"
).split()


class Done(NamedTuple):
    """What a command left: its exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def run(*words: object) -> Done:
    """Run a command in this process; what it prints is caught."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as left:
            code = int(left.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def ok(*words: object) -> Done:
    """Run a command that must succeed."""
    done = run(*words)
    assert done.code == 0, done.err
    return done


def error_of(*words: object) -> str:
    """Run a command that must fail with code 1, and with one line on stderr: that line."""
    done = run(*words)
    assert done.code == 1, done
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith(f"rag-finetune {words[0]}: error: ")
    return done.err


def usage_error_of(*words: object) -> str:
    """Run a command that is called wrongly: the last line on stderr."""
    done = run(*words)
    assert (done.code, done.out) == (2, ""), done
    last = done.err.splitlines()[-1]
    assert last.startswith(f"rag-finetune {words[0]}: error: ")
    return last


def write_inputs(folder: Path, kind: str = "bart") -> None:
    """Write passages.jsonl, train.json and parts/ of the twenty facts."""
    facts = tiny_rag.facts()
    passages = [{key: fact[key] for key in ("id", "title", "text")} for fact in facts]
    questions = [
        {"question": f["question"], "answers": [f["answer"]], "positive_ids": [f["id"]]}
        for f in facts
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in passages))
    (folder / "train.json").write_text(json.dumps(questions))
    tiny_rag.save_parts(folder / "parts", kind)


def index_words(job: Path, output: Path) -> list[str]:
    """`index` on the inputs."""
    inputs = [
        "--passages",
        job / "passages.jsonl",
        "--context_encoder",
        job / "parts/context_encoder",
    ]
    return ["index", *map(str, inputs), "--output_dir", str(output)]


def assemble_words(job: Path, output: Path) -> list[str]:
    """`assemble` on the inputs."""
    parts = job / "parts"
    words = ["--question_encoder", parts / "question_encoder", "--generator", parts / "generator"]
    return [
        "assemble",
        *map(str, words),
        "--output_dir",
        str(output),
        "--max_combined_length",
        "40",
    ]


def train_words(job: Path, output: Path) -> list[str]:
    """`train` for three steps."""
    words = ["--model_name_or_path", job / "assembled", "--train_file", job / "train.json"]
    return ["train", *map(str, words), "--output_dir", str(output), *QUICK]


@functools.cache
def tiny_job() -> Path:
    """A folder with the inputs, index/, assembled/ and run/; leave it as it is."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_inputs(folder)
    ok(*index_words(folder, folder / "index"))
    ok(*assemble_words(folder, folder / "assembled"), "--index", folder / "index")
    ok(*train_words(folder, folder / "run"))
    return folder


@functools.cache
def learnt_checkpoint() -> Path:
    """A checkpoint that has learnt the twenty facts, its index inside; leave it as it is."""
    folder = tiny_job() / "learnt"
    rag = trained_rag("bart", "rag_sequence")
    save_rag(rag.model, rag.tokenizer, folder)
    place_index(rag.retriever.index, folder, "copy", ours=False)
    return folder


def files_under(folder: Path) -> set[str]:
    """Relative paths of all files."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
