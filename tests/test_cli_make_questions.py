"""`rag-finetune make-questions`, run in this process."""

import json

import pytest
from tiny_job import error_of, ok, tiny_job, usage_error_of

from rag_finetune.data.cloze import cloze_questions
from rag_finetune.data.passages import load_passages
from rag_finetune.data.qa import load_questions
from rag_finetune.index.gold import Passages, resolve_positives
from rag_finetune.index.store import open_index

KEPT = ["--share_kept", 0.5]


@pytest.fixture
def long(tmp_path):
    """Passages of which three have a sentence that is long enough."""
    path = tmp_path / "passages.jsonl"
    texts = [f"Number {n} of the houses by the sea had a red door and a garden." for n in range(3)]
    rows = [{"id": f"p{n}", "title": "T", "text": text} for n, text in enumerate([*texts, "No."])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words_of(long, tmp_path, *more):
    return ["make-questions", "--passages", long, "--output_file", tmp_path / "made.json", *more]


def test_the_file_holds_questions_that_the_trainers_read(long, tmp_path):
    done = ok(*words_of(long, tmp_path, *KEPT, "--seed", 7))
    assert "3 questions of 3 passages; 1 have no sentence that is long enough." in done.out
    questions = load_questions(tmp_path / "made.json")
    rows = [json.loads(line) for line in long.read_text().splitlines()]
    golds = resolve_positives(questions, Passages(load_passages(long), long))
    assert golds["positive_ids"][:] == [["p0"], ["p1"], ["p2"]]
    made = list(cloze_questions(rows, 1, 0.5, 7))
    assert questions["question"][:] == [row["question"] for row in made]


def test_an_index_and_the_files_that_it_was_made_of_give_the_same(long, tmp_path):
    ok("index", "--passages", long, "--lexical", "bm25", "--output_dir", tmp_path / "index")
    ok(*words_of(long, tmp_path))
    other = tmp_path / "other.json"
    ok("make-questions", "--index", tmp_path / "index", "--output_file", other)
    assert other.read_text() == (tmp_path / "made.json").read_text()


def test_some_of_many_passages_are_drawn(long, tmp_path):
    ok(*words_of(long, tmp_path))
    every = json.loads((tmp_path / "made.json").read_text())
    ok(*words_of(long, tmp_path, "--overwrite", "--max_passages", 2, "--seed", 42))
    drawn = json.loads((tmp_path / "made.json").read_text())
    assert 1 <= len(drawn) <= 2 and all(row in every for row in drawn)
    ok(*words_of(long, tmp_path, "--overwrite", "--max_passages", 99))
    assert json.loads((tmp_path / "made.json").read_text()) == every


def test_a_file_that_is_there_stays_unless_it_may_go(long, tmp_path):
    (tmp_path / "made.json").write_text("mine")
    assert "exists. Choose another file, or give --overwrite" in error_of(*words_of(long, tmp_path))
    assert (tmp_path / "made.json").read_text() == "mine"


def test_what_is_read_is_not_written_over(long, tmp_path):
    before = long.read_text()
    words = ["--passages", long, "--output_file", tmp_path / ".." / tmp_path.name / long.name]
    assert "is read from. Choose another" in error_of("make-questions", *words, "--overwrite")
    assert long.read_text() == before


def test_passages_that_were_cut_otherwise_are_missed_and_said_to_be(tmp_path):
    text = " ".join(f"Of the houses by the sea number {n} had a red door." for n in range(40))
    (tmp_path / "long.jsonl").write_text(json.dumps({"id": "d", "text": text}) + "\n")
    words = ["--passages", tmp_path / "long.jsonl", "--passage_words"]
    ok("index", *words, 60, "--lexical", "bm25", "--output_dir", tmp_path / "index")
    ok("make-questions", *words, 50, "--output_file", tmp_path / "made.json")
    mine = ["--train_file", tmp_path / "made.json", "--output_file", tmp_path / "mined.json"]
    error = error_of("mine-negatives", "--index", tmp_path / "index", *mine)
    assert "holds the gold passage of none of the" in error


def test_no_sentence_at_all_is_an_error_and_leaves_no_file(long, tmp_path):
    long.write_text('{"id": "a", "text": "No."}\n')
    error = error_of(*words_of(long, tmp_path))
    expected = "expected passages with a sentence of at least 8 words, found none among 1."
    assert f"{long}: {expected}" in error
    assert not (tmp_path / "made.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--share_kept", 0], "--share_kept must be above 0 and at most 1, found 0"),
        (["--per_passage", 0], "--per_passage must be at least 1, found 0"),
    ],
)
def test_numbers_out_of_range_are_named(long, tmp_path, flags, message):
    assert message in error_of(*words_of(long, tmp_path, *flags))


def test_passages_must_be_named(tmp_path):
    assert "--passages --index" in usage_error_of(
        "make-questions", "--output_file", tmp_path / "made.json"
    )


def test_what_is_made_is_mined_beside_peoples_questions_and_trained_on(tmp_path):
    """The whole way: made of an index, joined with others, learnt from."""
    index = tmp_path / "index"
    encoders = [f"{tiny_job()}/parts/{kind}_encoder" for kind in ("context", "question")]
    words = ["--passages", tiny_job() / "passages.jsonl", "--context_encoder", encoders[0]]
    ok("index", *words, "--lexical", "bm25", "--output_dir", index)
    made, mined = tmp_path / "made.json", tmp_path / "mined.json"
    ok("make-questions", "--index", index, "--output_file", made)
    given = tiny_job() / "train.json"
    files = ["--train_file", given, made, "--output_file", mined]
    ok("mine-negatives", "--index", index, *files, "--n_negatives", 2)
    rows = json.loads(mined.read_text())
    asked = [load_questions(path) for path in (given, made)]
    assert [row["question"] for row in rows] == [q for part in asked for q in part["question"]]
    size = len(open_index(index))
    assert len(asked[1]) == size and len(rows) == len(asked[0]) + size
    train = ["--question_encoder", encoders[1], "--context_encoder", encoders[0]]
    train += ["--index", index, "--train_file", mined, "--output_dir", tmp_path / "run"]
    done = ok("train-retriever", *train, "--max_steps", 1, "--use_cpu", "--disable_tqdm", "true")
    assert f"{len(rows):,} questions to train on" in done.out
