"""`rag-finetune train-retriever`, run in this process."""

import json
import re
import types

import pytest
import tiny_rag
from tiny_job import error_of, ok, usage_error_of, write_inputs

from rag_finetune.cli import train_retriever
from rag_finetune.encoders.load import load_context_encoder, load_question_encoder
from rag_finetune.index import lexical
from rag_finetune.index.store import open_index


@pytest.fixture
def inputs(tmp_path):
    """A folder with passages, questions and encoders of the twenty facts."""
    write_inputs(tmp_path)
    return tmp_path


def words(folder, *more, output="run"):
    return [
        *("train-retriever", "--question_encoder", str(folder / "parts/question_encoder")),
        *("--passages", str(folder / "passages.jsonl"), "--train_file", str(folder / "train.json")),
        *("--output_dir", str(folder / output), "--per_device_train_batch_size", "8"),
        *("--max_steps", "3", "--learning_rate", "1e-2", "--use_cpu", *more),
    ]


def test_it_leaves_two_folders_the_index_and_the_figures(inputs):
    pair = ("--context_encoder", str(inputs / "parts/context_encoder"))
    validation = ("--validation_file", str(inputs / "train.json"))
    printed = ok(*words(inputs, *pair, *validation, "--save_index")).out
    assert "20 questions to train on, 20 to validate on; 1 process(es)." in printed
    assert re.search(r"finished after 3 steps; best mrr@10 0\.\d+, 0\.\d+ before training", printed)
    assert "step 0 of 3, validation:  " in printed
    assert f"--question_encoder {inputs}/run/question_encoder --index {inputs}/run/index" in printed
    run = inputs / "run"
    assert {"question_encoder", "context_encoder", "index", "train_results.json"} <= {
        path.name for path in run.iterdir()
    }
    context = load_context_encoder(str(run / "context_encoder"))
    index = open_index(run / "index", context.fingerprint())
    assert len(index) == 20
    question = load_question_encoder(str(run / "question_encoder"))
    assert index.search(question.encode(["what is the house of ada ?"]), 5)[1].shape == (1, 5)
    best = json.loads((run / "train_results.json").read_text())["best_metric"]
    ok(
        *[
            *("evaluate", "--retrieval_only", "--question_encoder", str(run / "question_encoder")),
            *("--index", str(run / "index"), "--eval_file", str(inputs / "train.json")),
            *("--output_dir", str(inputs / "evaluation"), "--probe", "false"),
        ]
    )
    metrics = json.loads((inputs / "evaluation" / "metrics.json").read_text())
    assert metrics["mrr@10"] == pytest.approx(best)


def test_a_best_that_is_no_better_than_the_start_is_said():
    def trained(*figures):
        logs = [{"step": step, "eval_mrr@10": found} for step, found in enumerate(figures)]
        state = types.SimpleNamespace(best_metric=max(figures[1:]), log_history=logs)
        args = types.SimpleNamespace(metric_for_best_model="mrr@10", load_best_model_at_end=True)
        return train_retriever._best_of(types.SimpleNamespace(args=args, state=state))

    with pytest.warns(UserWarning, match="as good or better"):
        trained(0.14644841269841270, 0.14644841269841272)
    assert trained(0.5, 0.4, 0.6) == "; best mrr@10 0.6000, 0.5000 before training"
    with pytest.warns(UserWarning, match=r"mrr@10 was 0.5000 before training and is 0.4000 at its"):
        assert trained(0.5, 0.4, 0.3) == "; best mrr@10 0.4000, 0.5000 before training"


@pytest.mark.parametrize("vectors", [[], ["--index_type", "HNSW8,Flat"]], ids=["words", "both"])
def test_what_the_given_index_had_the_new_one_has(inputs, tmp_path, vectors):
    if vectors:
        vectors = [*vectors, "--context_encoder", str(inputs / "parts/context_encoder")]
    cut = ["--passages", str(inputs / "passages.jsonl"), "--passage_words", "9", "--overlap", "1"]
    old, output = tmp_path / "old", tmp_path / "run"
    of_words = ["--lexical", "bm25", "--language", "english", "--output_dir", str(old)]
    ok("index", *cut, *vectors, *of_words)
    manifest = json.loads((old / "manifest.json").read_text())
    manifest["retrieval"] = {"way": "hybrid", "weight": 0.25} if vectors else {"way": "bm25"}
    (old / "manifest.json").write_text(json.dumps(manifest))
    given = words(inputs, "--save_index", output=output)
    place = given.index("--passages")
    printed = ok(*given[:place], "--index", str(old), *given[place + 2 :]).out
    assert f"{output}/index: has bm25 too, as the index that was given." in printed
    assert ("chosen for the old vectors" in printed) is bool(vectors)
    before, after = (open_index(folder) for folder in (old, output / "index"))
    assert after.manifest.fingerprint == (
        load_context_encoder(str(output / "context_encoder")).fingerprint()
    )
    assert after.manifest.retrieval == (before.manifest.retrieval if vectors else {})
    for name in ("lexical", "passage_words", "overlap"):
        assert getattr(after.manifest, name) == getattr(before.manifest, name), name
    assert after.manifest.faiss_factory == ("HNSW8,Flat" if vectors else "Flat")
    asked = ["what is the house of ada ?"]
    found = [index.lexical("bm25").search(asked, 5)[1].tolist() for index in (before, after)]
    assert found[0] == found[1]


def test_a_package_that_the_index_will_need_is_missed_before_training(
    inputs, tmp_path, monkeypatch
):
    ok(
        "index",
        "--passages",
        inputs / "passages.jsonl",
        "--lexical",
        "bm25",
        "--output_dir",
        tmp_path / "old",
    )
    given = words(inputs, "--save_index", output=tmp_path / "run")
    place = given.index("--passages")
    monkeypatch.setitem(lexical.MODULES, "bm25", ("no_such_module",))
    error = error_of(*given[:place], "--index", str(tmp_path / "old"), *given[place + 2 :])
    assert "BM25 needs no_such_module" in error
    assert not (tmp_path / "run").exists()


def test_one_encoder_is_tied_and_a_run_goes_on_from_its_last_checkpoint(inputs):
    printed = ok(*words(inputs, "--save_strategy", "steps", "--save_steps", "2")).out
    assert "question_encoder" in printed and "\ncontext_encoder" not in printed
    assert "already exists" in error_of(*words(inputs))
    ok(*words(inputs, "--save_strategy", "no"), "--resume_from_checkpoint", "latest")
    question = load_question_encoder(str(inputs / "run/question_encoder"))
    context = load_context_encoder(str(inputs / "run/context_encoder"))
    assert (question.encode(["ada"]) == context.encode(["ada"])).all()


def test_an_index_that_is_there_is_told_before_training(inputs):
    ok(*words(inputs, "--save_index", "--save_strategy", "steps", "--save_steps", "2"))
    error = error_of(*words(inputs, "--save_index"), "--resume_from_checkpoint", "latest")
    assert f"{inputs}/run/index: already exists and is not empty" in error


def test_a_run_that_goes_on_still_knows_what_was_there_before_it(inputs):
    given = words(inputs, "--validation_file", str(inputs / "train.json"))
    steps = ["--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps"]
    first = ok(*given, *steps, "--save_steps", "2").out
    again = ok(*given, *steps, "--save_steps", "2", "--resume_from_checkpoint", "latest").out
    before = re.compile(r"0\.\d+ before training")
    assert before.findall(first) == before.findall(again) != []
    assert "step 0 of 3" in first
    assert "validation: " not in again  # of the checkpoint's it is known


def test_that_the_last_model_is_kept_is_said_beside_the_best_figure(inputs):
    given = words(inputs, "--validation_file", str(inputs / "train.json"))
    with pytest.warns(UserWarning, match="eval_strategy steps and save_strategy epoch differ"):
        done = ok(*given, "--eval_strategy", "steps", "--eval_steps", "2")
    assert re.search(r"; best mrr@10 0\.\d+, 0\.\d+ before training, the last model is", done.out)


def test_dpr_files_bring_their_positives_and_hard_negatives(inputs):
    facts = tiny_rag.facts()
    rows = [
        {
            "question": fact["question"],
            "answers": [fact["answer"]],
            "positive_ctxs": [{"title": fact["title"], "text": fact["text"]}],
            "hard_negative_ctxs": [{"title": other["title"], "text": other["text"]}],
        }
        for fact, other in zip(facts, facts[1:] + facts[:1], strict=True)
    ]
    (inputs / "train.json").write_text(json.dumps(rows))
    index = tiny_rag.tiny_index(inputs / "index")
    given = words(inputs, "--index", str(index.folder))
    start = given.index("--passages")
    printed = ok(*given[:start], *given[start + 2 :]).out
    assert "20 questions to train on, 0 to validate on" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--n_negatives", "1"], "no question has any"),
        (["--tied", "false"], "is a DPR question encoder. Give its --context_encoder, or --tied"),
        (["--topics", "21"], "the questions have 20 gold passages between them"),
        (["--temperature", "0"], "temperature must be a number above 0"),
        (["--train_file", "nowhere.json"], "nowhere.json: expected a file"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(inputs, more, message):
    assert message in error_of(*words(inputs, *more))


def test_passages_or_an_index_are_needed(inputs):
    given = words(inputs)
    start = given.index("--passages")
    assert "--passages --index" in usage_error_of(*given[:start], *given[start + 2 :])


def test_words_and_vectors_teach_and_the_run_says_so_and_what_its_topics_are(inputs):
    teacher = ("--teacher", "bm25", "--teacher_language", "english")
    printed = ok(*words(inputs, *teacher, "--distillation_weight", "0.5", "--topics", "2")).out
    assert "\nTopics: 2, of " in printed
    [line] = [line for line in printed.splitlines() if line.startswith("Teacher: ")]
    assert " × BM25 + " in line and "% of 20 training questions, among 20 passages." in line
