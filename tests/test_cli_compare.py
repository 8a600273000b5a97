"""`rag-finetune compare`, run in this process."""

import json
import os
import shutil

import pytest
from tiny_job import error_of, files_under, learnt_checkpoint, ok, tiny_job, usage_error_of
from tiny_words import words_job
from transformers import GenerationConfig

from rag_finetune.cli.compare import _kinds, _room
from rag_finetune.evaluation.compare import ROWS
from rag_finetune.retrieval.way import Retrieval


def compare_words(output, *more):
    job = tiny_job()
    words = ["--model_name_or_path", learnt_checkpoint(), "--starting_model", learnt_checkpoint()]
    words += ["--train_file", job / "train.json", "--output_dir", output]
    if "--eval_files" not in more:
        words += ["--eval_files", job / "train.json"]
    return ["compare", *map(str, [*words, *more])]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of two sets; leave it as it is."""
    folder = tmp_path_factory.mktemp("compared")
    shutil.copy(tiny_job() / "train.json", folder / "other.json")
    files = ["--eval_files", tiny_job() / "train.json", folder / "other.json"]
    done = ok(*compare_words(folder / "out", *files))
    return folder, files, done


def test_every_row_of_every_set_leaves_metrics_and_predictions(compared):
    folder, _, done = compared
    names = ("metrics.json", "predictions.jsonl")
    expected = {f"{s}/{row}/{n}" for s in ("train", "other") for row in ROWS for n in names}
    assert files_under(folder / "out") == expected | {"inputs.json"}
    read = {
        row: json.loads((folder / "out/train" / row / "metrics.json").read_text()) for row in ROWS
    }
    assert read["fine_tuned"] == read["starting"]  # the same checkpoint
    assert read["fine_tuned"]["exact_match"] >= 0.8
    assert 0 < read["most_frequent"]["exact_match"] < 0.5
    assert "recall@1" not in read["closed_book"]
    assert read["bm25"]["recall@1"] == 1.0
    assert "other: fine-tuned RAG …" in done.out
    assert "train: 20 questions" in done.out and "other: 20 questions" in done.out
    assert done.out.count("    answer: ") == 5


def test_another_index_is_answered_from_by_the_fine_tuned_model(tmp_path, monkeypatch):
    job = tiny_job()
    rows = json.loads((job / "train.json").read_text())
    for number, row in enumerate(rows):
        row["id"] = str(number)
    (tmp_path / "asked.json").write_text(json.dumps(rows))
    for row in rows:
        row["answers"] = ["something else"]
    (tmp_path / "edition.json").write_text(json.dumps(rows[:7]))
    words = [
        "--eval_files",
        tmp_path / "asked.json",
        "--other_index",
        learnt_checkpoint() / "index",
    ]
    words += ["--other_file", tmp_path / "edition.json"]
    done = ok(*compare_words(tmp_path / "out", *words))
    # The index is the same one: its answers are the former ones.
    assert "of 7 questions of edition that it answers differently,\n0.0 % get its" in done.out
    metrics = json.loads((tmp_path / "out/edition/other_index/metrics.json").read_text())
    assert metrics["changed_exact_match"] == 0.0 and metrics["former_exact_match"] >= 0.8
    monkeypatch.setattr("rag_finetune.rag.checkpoint.load_rag", None)
    assert done.out.endswith(ok(*compare_words(tmp_path / "out", *words)).out)


def test_an_edition_that_says_the_same_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    job = tiny_job()
    shutil.copy(job / "train.json", tmp_path / "edition.json")
    monkeypatch.setattr("rag_finetune.rag.checkpoint.load_rag", None)
    words = [
        "--other_index",
        learnt_checkpoint() / "index",
        "--other_file",
        tmp_path / "edition.json",
    ]
    message = error_of(*compare_words(tmp_path / "out", *words))
    assert "None of the 20 questions for the other index" in message


def test_another_index_needs_its_questions():
    words = compare_words("out", "--other_index", tiny_job() / "index")
    assert "--other_index and --other_file go together" in usage_error_of(*words)


def test_a_second_time_the_same_table_comes_without_a_model(compared, monkeypatch):
    folder, files, first = compared
    monkeypatch.setattr("rag_finetune.rag.checkpoint.load_rag", None)
    again = ok(*compare_words(folder / "out", *files))
    assert first.out.endswith(again.out)


def test_other_flags_are_refused_or_replace_what_is_there(tmp_path):
    words = ["--max_new_tokens", "2"]
    ok(*compare_words(tmp_path / "out", *words))
    (tmp_path / "out/mine.txt").write_text("kept")
    message = error_of(*compare_words(tmp_path / "out", "--max_new_tokens", "3"))
    assert "holds a comparison of other inputs; --max_new_tokens differ" in message
    ok(*compare_words(tmp_path / "out", "--max_new_tokens", "3", "--overwrite"))
    assert "--max_new_tokens" in (tmp_path / "out/inputs.json").read_text()
    assert (tmp_path / "out/mine.txt").read_text() == "kept"


def test_the_size_of_a_batch_is_no_input(tmp_path, monkeypatch):
    words = ["--max_new_tokens", "2"]
    first = ok(*compare_words(tmp_path / "out", *words, "--batch_size", "4"))
    monkeypatch.setattr("rag_finetune.rag.checkpoint.load_rag", None)
    again = ok(*compare_words(tmp_path / "out", *words, "--batch_size", "3"))
    assert first.out.endswith(again.out)


def wrong_words(tmp_path, wrong):
    """Words that are found to be wrong only when something is loaded, with the message."""
    nowhere = tmp_path / "nowhere"
    if wrong == "index":
        return ["--index", nowhere], str(nowhere)
    if wrong == "other_index":
        rows = json.loads((tiny_job() / "train.json").read_text())
        rows = [{**row, "id": str(number), "answers": ["x"]} for number, row in enumerate(rows)]
        (tmp_path / "edition.json").write_text(json.dumps(rows))
        words = ["--other_index", nowhere, "--other_file", tmp_path / "edition.json"]
        return words, str(nowhere)
    if wrong == "starting_model":
        return ["--starting_model", nowhere, "--index", learnt_checkpoint() / "index"], str(nowhere)
    (tmp_path / "bare.json").write_text('[{"question": "Who?"}]')
    return [f"--{wrong}", tmp_path / "bare.json"], "bare.json"


@pytest.mark.parametrize(
    "wrong", ["eval_files", "train_file", "index", "other_index", "starting_model"]
)
def test_what_cannot_be_loaded_leaves_nothing_and_takes_nothing_away(tmp_path, compared, wrong):
    words, named = wrong_words(tmp_path, wrong)
    message = error_of(*compare_words(tmp_path / "out", *words))
    assert named in message
    assert not (tmp_path / "out").exists()
    shutil.copytree(compared[0] / "out", tmp_path / "out")
    before = files_under(tmp_path / "out")
    assert error_of(*compare_words(tmp_path / "out", *words, "--overwrite")) == message
    assert files_under(tmp_path / "out") == before


def test_inputs_count_by_content_and_not_by_spelling_or_time(tmp_path, monkeypatch):
    copy = tmp_path / "model"
    shutil.copytree(learnt_checkpoint(), copy)
    words = ["--model_name_or_path", copy, "--max_new_tokens", "2"]
    shutil.copy(tiny_job() / "train.json", tmp_path / "asked.json")
    words += ["--eval_files", tmp_path / "asked.json"]
    ok(*compare_words(tmp_path / "out", *words))
    monkeypatch.setattr("rag_finetune.rag.checkpoint.load_rag", None)
    os.utime(copy / "config.json", (1, 1))  # its content is the same
    same = ["--model_name_or_path", f"{os.path.relpath(copy)}/", *words[2:]]
    ok(*compare_words(tmp_path / "out", *same))
    for file, flag in (
        (copy / "model.safetensors", "--model_name_or_path"),
        (tmp_path / "asked.json", "--eval_files"),
        (copy / "index/manifest.json", "--index"),
    ):
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        message = error_of(*compare_words(tmp_path / "out", *words))
        assert f"of other inputs; {flag} differ" in message
        file.write_bytes(before)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    for more in ([], ["--overwrite"]):
        message = error_of(*compare_words(tmp_path, *more))
        assert "is not empty and holds no comparison" in message
    assert "is a file" in error_of(*compare_words(tmp_path / "mine.txt"))
    assert files_under(tmp_path) == {"mine.txt"}
    theirs = tmp_path / "theirs/test/starting/kept.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("x")
    (tmp_path / "theirs/inputs.json").write_text("{}")
    message = error_of(*compare_words(tmp_path / "theirs", "--overwrite"))
    assert "holds no comparison" in message and theirs.exists()


def test_the_start_reads_and_answers_as_the_fine_tuned_model_does(tmp_path):
    start = tmp_path / "start"
    shutil.copytree(learnt_checkpoint(), start)
    for name, changed in {
        "config.json": {
            "architectures": ["RagTokenForGeneration"],
            "n_docs": 1,
            "max_combined_length": 9,
        },
        "generation_config.json": {"num_beams": 3},
    }.items():
        found = json.loads((start / name).read_text())
        (start / name).write_text(json.dumps(found | changed))
    ok(*compare_words(tmp_path / "out", "--starting_model", start))
    read = {
        row: (tmp_path / "out/train" / row / "predictions.jsonl").read_text()
        for row in ("starting", "fine_tuned")
    }
    assert read["starting"] == read["fine_tuned"]  # the same weights
    bm25 = (tmp_path / "out/train/bm25/predictions.jsonl").read_text().splitlines()
    assert len(json.loads(bm25[0])["passages"]) > 1


def test_an_id_of_two_questions_cannot_be_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr("rag_finetune.rag.checkpoint.load_rag", None)
    rows = json.loads((tiny_job() / "train.json").read_text())
    for name, part in (("a", rows[:4]), ("b", rows[4:8]), ("edition", rows[:4])):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))  # their ids are row numbers
    words = ["--eval_files", tmp_path / "a.json", tmp_path / "b.json"]
    words += ["--other_index", learnt_checkpoint() / "index"]
    words += ["--other_file", tmp_path / "edition.json"]
    message = error_of(*compare_words(tmp_path / "out", *words))
    assert 'b.json: the id "0" is that of another question in' in message


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [({"max_length": 64}, 63), ({"max_length": 64, "max_new_tokens": 9}, 9), ({}, None)],
)
def test_every_row_has_the_room_for_answers_that_the_fine_tuned_model_has(settings, tokens):
    assert _room(GenerationConfig(**settings)) == tokens


def test_an_untrained_start_is_not_cut_shorter_than_what_came_of_it(tmp_path, monkeypatch):
    seen = []
    from rag_finetune.evaluation import evaluate

    def decode(model, contexts, **options):
        seen.append(options["max_new_tokens"])
        return real(model, contexts, **options)

    real = evaluate.decode
    monkeypatch.setattr(evaluate, "decode", decode)
    job = tiny_job()
    words = ["--model_name_or_path", job / "run", "--starting_model", job / "assembled"]
    ok(*compare_words(tmp_path / "out", *words))
    limits = json.loads((job / "run/generation_config.json").read_text())
    assert set(seen) == {limits["max_length"] - 1}


def test_two_files_of_one_name_are_wrong_usage(tmp_path):
    shutil.copy(tiny_job() / "train.json", tmp_path / "train.json")
    files = ["--eval_files", tiny_job() / "train.json", tmp_path / "train.json"]
    assert "must have different names" in usage_error_of(*compare_words(tmp_path / "out", *files))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eval_files", "nowhere.json"], "nowhere.json: expected a file"),
        (["--other_index", "nowhere", "--other_file", "nowhere.json"], "nowhere.json: expected a"),
        (["--kind_pattern", "("], "not a regular expression"),
        (["--n_docs", "0"], "--n_docs must be at least 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(tmp_path, words, message):
    assert message in error_of(*compare_words(tmp_path / "out", *words))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        (None, ""),
        (r"^[^-]+-(.*?)(?:-\d+)?$", "melting_point"),
        ("point", "point"),
        ("nothing", ""),
    ],
)
def test_the_kind_is_what_the_pattern_finds(pattern, kind):
    assert _kinds(pattern)("krypton-melting_point-1") == kind


def test_an_optional_group_that_finds_nothing_is_no_kind():
    assert _kinds("x|(y)")("x") == ""


def test_the_starting_model_searches_as_the_trained_one_does(tmp_path, monkeypatch):
    trained = shutil.copytree(words_job() / "full_model/assembled", tmp_path / "trained")
    shutil.copytree(words_job() / "full", tmp_path / "index")
    reference = json.loads((trained / "rag_index.json").read_text())
    way = Retrieval("tfidf", prior=0.25)
    (trained / "rag_index.json").write_text(
        json.dumps({**reference, "index": "../index", "retrieval": way.data()})
    )
    start = words_job() / "full_model/assembled"
    words = ["--model_name_or_path", trained, "--starting_model", start, "--max_new_tokens", 2]
    ok(*compare_words(tmp_path / "out", *words))
    rows = {
        row: [
            [passage["id"] for passage in json.loads(line)["passages"]]
            for line in (tmp_path / f"out/train/{row}/predictions.jsonl").read_text().splitlines()
        ]
        for row in ("starting", "fine_tuned")
    }
    assert rows["starting"] == rows["fine_tuned"]
    assert [found[0] for found in rows["starting"]] == [str(n + 1) for n in range(20)]
    (trained / "rag_index.json").write_text(json.dumps({**reference, "index": "../index"}))
    assert "retrieval differ" in error_of(*compare_words(tmp_path / "out", *words))
