"""`rag-finetune mine-negatives`, run in this process."""

import json

import pytest
import tiny_rag
from tiny_job import error_of, ok, tiny_job, usage_error_of

from rag_finetune.data.candidates import load_candidates
from rag_finetune.data.qa import load_questions
from rag_finetune.index.gold import resolve_positives
from rag_finetune.index.store import open_index

FACTS = tiny_rag.facts()


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """The index of the job, with words beside it."""
    folder = tmp_path_factory.mktemp("mine") / "index"
    words = ["--passages", tiny_job() / "passages.jsonl"]
    words += ["--context_encoder", tiny_job() / "parts/context_encoder"]
    ok("index", *words, "--lexical", "bm25", "--output_dir", folder)
    return folder


def words_of(index, output, *more):
    words = ["--index", index, "--train_file", tiny_job() / "train.json", "--output_file", output]
    return ["mine-negatives", *words, *more]


def dense():
    return ["--retrieval", "dense", "--question_encoder", tiny_job() / "parts/question_encoder"]


@pytest.mark.parametrize("retrieval", [["bm25"], ["dense"], ["bm25", "dense"]], ids=" ".join)
def test_the_file_is_read_back_as_questions_and_candidates(index, tmp_path, retrieval):
    output = tmp_path / "mined.json"
    flags = dense()[2:] if "dense" in retrieval else []
    done = ok(*words_of(index, output, "--retrieval", *retrieval, *flags, "--n_negatives", 4))
    assert "20 questions with 80 negatives, 4.0 each.\nPassages that were found" in done.out
    questions, given = load_questions(output), load_questions(tiny_job() / "train.json")
    for name in ("question", "answers", "positive_ids"):
        assert questions[name][:] == given[name][:]
    rows = json.loads(output.read_text())
    candidates = load_candidates(output)
    for fact, row, found in zip(FACTS, rows, candidates, strict=True):
        assert [one.text for one in found.positives] == [fact["text"]]
        assert [one.id for one in found.negatives] == [
            context["passage_id"] for context in row["hard_negative_ctxs"]
        ]
        assert len(found.negatives) == 4
        for one in found.negatives:
            assert f" {fact['answer']} " not in one.text
        assert {context["retrieval"] for context in row["hard_negative_ctxs"]} == {*retrieval}


def test_a_checkpoint_finds_negatives_too(index, tmp_path):
    of_encoder = words_of(index, tmp_path / "a.json", *dense())
    ok(*of_encoder)
    flags = ["--retrieval", "dense", "--model_name_or_path", tiny_job() / "assembled"]
    ok(*words_of(index, tmp_path / "b.json", *flags))
    first, second = (
        [[one.id for one in found.negatives] for found in load_candidates(tmp_path / name)]
        for name in ("a.json", "b.json")
    )
    assert first == second


def test_that_no_question_has_a_negative_is_said(index, tmp_path):
    words = ["--retrieval", "bm25", *dense()[1:], "--margin", 1000]
    with pytest.warns(UserWarning, match="No question has a negative.*each search with its own"):
        done = ok(*words_of(index, tmp_path / "mined.json", *words))
    assert "20 questions with 0 negatives" in done.out


def test_a_file_that_is_there_is_not_overwritten_unless_asked_to(index, tmp_path):
    output = tmp_path / "mined.json"
    output.write_text("mine")
    assert "exists. Choose another file, or give --overwrite" in error_of(*words_of(index, output))
    assert output.read_text() == "mine"
    ok(*words_of(index, output, "--overwrite"))


def test_files_of_several_formats_are_joined_and_their_ids_told_apart(index, tmp_path):
    """JSON without ids, DPR's with the same ones, and BEIR's with grades, one after another."""
    first, dpr = tmp_path / "first.json", tmp_path / "dpr.json"
    rows = json.loads((tiny_job() / "train.json").read_text())
    first.write_text(json.dumps(rows[:3]))
    second = tmp_path / "second.json"
    second.write_text(json.dumps([{**rows[3], "id": "0"}, {**rows[4], "id": "2-0"}]))
    ok("mine-negatives", "--index", index, "--train_file", second, "--output_file", dpr)
    beir = tmp_path / "beir"
    ok("export-beir", "--index", index, "--train_file", first, "--output_dir", beir)
    table = beir / "qrels/train.tsv"
    table.write_text(table.read_text().replace("\t1\n", "\t2\n", 1))
    output = tmp_path / "mined.json"
    files = ["--train_file", first, dpr, table, "--output_file", output]
    ok("mine-negatives", "--index", index, *files, "--n_negatives", 1)
    found = load_questions(output, need_answers=False)
    assert found["id"][:] == ["0", "1", "2", "2-0", "2-2-0", "3-0", "3-1", "3-2"]
    asked = [row["question"] for row in rows]
    assert found["question"][:] == asked[:5] + asked[:3]
    golds = resolve_positives(found, open_index(index))["positive_ids"][:]
    assert golds == [row["positive_ids"] for row in rows[:5] + rows[:3]]


def test_what_is_left_out_is_told_by_file_and_what_is_asked_twice_is_said(index, tmp_path):
    rows = json.loads((tiny_job() / "train.json").read_text())
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(json.dumps(rows[:3]))
    gone = [{**rows[3], "positive_ids": ["gone"]}, {**rows[4], "positive_ids": ["gone"]}]
    second.write_text(json.dumps([*rows[2:3], *gone, rows[5]]))
    files = ["--train_file", first, second, "--output_file", tmp_path / "mined.json"]
    with pytest.warns(UserWarning, match=r"second.json: 1 of its questions are in an earlier file"):
        done = ok("mine-negatives", "--index", index, *files, "--n_negatives", 30)
    assert "5 questions with" in done.out
    assert "5  of them with fewer than 30\n" in done.out
    assert f"2  of {second} left out: no gold passage in the index\n" in done.out
    assert f"of {first} left out" not in done.out
    of_passages = done.out.partition("Passages that were found and not taken:\n")[2]
    assert "gold passages\n" in of_passages and "question" not in of_passages


def test_a_file_that_is_given_twice_or_written_over_is_refused(index, tmp_path):
    given = tmp_path / "train.json"
    given.write_text((tiny_job() / "train.json").read_text())
    words = ["mine-negatives", "--index", index, "--output_file", given, "--overwrite"]
    assert "is given twice" in error_of(*words, "--train_file", given, given)
    assert "is read from" in error_of(*words, "--train_file", given)
    assert given.read_text() == (tiny_job() / "train.json").read_text()


def test_a_run_that_fails_leaves_no_file(tmp_path):
    error = error_of(*words_of(tiny_job() / "index", tmp_path / "mined.json"))
    assert "expected an index by bm25, found vectors only. Add it:" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["--retrieval", "dense"],
        ["--question_encoder", "x"],
        ["--retrieval", "dense", "--question_encoder", "x", "--model_name_or_path", "y"],
    ],
    ids=" ".join,
)
def test_an_encoder_is_for_dense_search(index, tmp_path, words):
    assert "--retrieval dense" in usage_error_of(*words_of(index, tmp_path / "x", *words))
