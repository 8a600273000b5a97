"""`rag-finetune predict`, run in this process."""

import io
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import tiny_rag
from tiny_job import error_of, learnt_checkpoint, ok, tiny_job, usage_error_of
from tiny_reranker import save_reranker
from tiny_words import words_job

from rag_finetune.cli.predict import read_questions

QUESTIONS = [fact["question"] for fact in tiny_rag.facts()]


def predict_words(questions):
    return ["predict", "--model_name_or_path", learnt_checkpoint(), "--questions", questions]


def rows_of(done):
    return [json.loads(line) for line in done.out.splitlines()]


def text_file(folder: Path, *lines: str) -> Path:
    path = folder / "questions.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_each_line_is_an_answer_with_its_evidence(tmp_path):
    done = ok(*predict_words(text_file(tmp_path, QUESTIONS[3], QUESTIONS[1])))
    rows = rows_of(done)
    assert [(row["id"], row["question"]) for row in rows] == [
        ("0", QUESTIONS[3]),
        ("1", QUESTIONS[1]),
    ]
    assert [row["prediction"] for row in rows] == [tiny_rag.facts()[n]["answer"] for n in (3, 1)]
    for row in rows:
        assert set(row) == {"id", "question", "prediction", "score", "passages"}
        assert row["score"] < 0
        assert len(row["passages"]) == 5
        assert set(row["passages"][0]) == {"id", "title", "text", "score", "posterior"}


def test_answers_come_in_the_order_of_the_questions_whatever_the_batch(tmp_path):
    order = [*QUESTIONS[10:], *QUESTIONS[:10], "is ada named ben ?", "where is tess ?"]
    path = text_file(tmp_path, *order)
    whole = rows_of(ok(*predict_words(path), "--batch_size", 50))
    pieces = rows_of(ok(*predict_words(path), "--batch_size", 3))
    assert [row["question"] for row in pieces] == order
    assert [row["id"] for row in pieces] == [str(number) for number in range(22)]
    assert [row["prediction"] for row in pieces] == [row["prediction"] for row in whole]


def test_json_jsonl_and_text_are_read_alike(tmp_path):
    rows = [{"id": f"q{n}", "question": question} for n, question in enumerate(QUESTIONS[:3])]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    (tmp_path / "q.JSONL").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = rows_of(ok(*predict_words(text_file(tmp_path, *QUESTIONS[:3]))))
    for name in ("q.json", "q.JSONL"):
        found = rows_of(ok(*predict_words(tmp_path / name)))
        assert [row["id"] for row in found] == ["q0", "q1", "q2"]
        assert [row["prediction"] for row in found] == [row["prediction"] for row in text]
        assert [row["score"] for row in found] == [row["score"] for row in text]


def test_every_question_of_a_benchmark_is_answered_and_its_answers_stay_out(tmp_path):
    (tmp_path / "nq.tsv").write_text("what is the house of ada ?\t['red rome']\n")
    [row] = read_questions(str(tmp_path / "nq.tsv"))
    assert row[1] == "what is the house of ada ?"
    asked = [
        {"id": "1", "question": "who ?", "answers": [], "is_impossible": True},
        {"id": "2", "question": "what ?", "answers": [{"text": "red"}]},
    ]
    article = {"title": "A", "paragraphs": [{"context": "a red house", "qas": asked}]}
    (tmp_path / "squad.json").write_text(json.dumps({"data": [article]}))
    assert read_questions(str(tmp_path / "squad.json")) == [("1", "who ?"), ("2", "what ?")]


@pytest.mark.parametrize("text", ["a ?\nb ?\n", "\ufeffa ?\r\n\r\n  b ?  ", "a ?\n\nb ?"])
def test_text_holds_one_question_a_line(tmp_path, monkeypatch, text):
    (tmp_path / "q.txt").write_bytes(text.encode("utf-8"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    expected = [("0", "a ?"), ("1", "b ?")]
    assert read_questions(str(tmp_path / "q.txt")) == expected
    assert read_questions("-") == expected


def test_only_a_newline_ends_a_question(tmp_path):
    path = text_file(tmp_path, "a\u2028b\x0bc\x85d ?", "e ?")
    assert [question for _, question in read_questions(str(path))] == [
        "a\u2028b\x0bc\x85d ?",
        "e ?",
    ]


def test_num_return_sequences_gives_alternatives_best_first(tmp_path):
    path = text_file(tmp_path, *QUESTIONS[:4])
    words = ["--num_return_sequences", 3, "--num_beams", 4]
    plain = rows_of(ok(*predict_words(path), "--num_beams", 4))
    for row, best in zip(rows_of(ok(*predict_words(path), *words)), plain, strict=True):
        assert {key: row[key] for key in best} == best
        assert len(row["alternatives"]) == 2
        scores = [row["score"], *(answer["score"] for answer in row["alternatives"])]
        assert scores == sorted(scores, reverse=True)
        answers = [row["prediction"], *(answer["text"] for answer in row["alternatives"])]
        assert len(set(answers)) == 3
        assert all(len(answer["passages"]) == 5 for answer in row["alternatives"])


def test_sampling_is_repeated_by_the_same_seed_and_not_by_another(tmp_path):
    # A model that has learnt nothing draws from all words.
    model = ["--model_name_or_path", tiny_job() / "assembled", "--max_new_tokens", 6]
    words = [*predict_words(text_file(tmp_path, *QUESTIONS)), *model, "--do_sample"]
    first, again, other = (ok(*words, "--seed", seed) for seed in (7, 7, 8))
    assert first.out == again.out
    assert first.out != other.out
    assert first.out != ok(*words, "--do_sample", "false").out


def test_a_model_that_samples_can_be_told_not_to(tmp_path):
    shutil.copytree(learnt_checkpoint(), tmp_path / "model")
    settings = json.loads((tmp_path / "model/generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 50.0}
    (tmp_path / "model/generation_config.json").write_text(json.dumps(settings))
    path = text_file(tmp_path, *QUESTIONS)
    words = [*predict_words(path), "--model_name_or_path", tmp_path / "model"]
    told = [row["prediction"] for row in rows_of(ok(*words, "--do_sample", "false"))]
    assert told == [row["prediction"] for row in rows_of(ok(*predict_words(path)))]
    assert told != [row["prediction"] for row in rows_of(ok(*words))]


def test_questions_that_are_cut_are_counted_once_over_all_batches(tmp_path):
    path = text_file(tmp_path, *QUESTIONS[:5])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ok(*predict_words(path), "--max_question_length", 4, "--batch_size", 2)
    messages = [str(entry.message) for entry in caught if "lose their end" in str(entry.message)]
    assert len(messages) == 1
    assert messages[0].startswith("5 of 5 questions are longer than 4 tokens")


def test_n_docs_and_max_new_tokens_are_obeyed(tmp_path):
    path = text_file(tmp_path, *QUESTIONS[:5])
    words = ["--n_docs", 2, "--max_new_tokens", 1]
    for row in rows_of(ok(*predict_words(path), *words)):
        assert len(row["passages"]) == 2
        assert len(row["prediction"].split()) <= 1


def test_more_passages_than_there_are_gives_all_of_them(tmp_path):
    path = text_file(tmp_path, QUESTIONS[0])
    with pytest.warns(UserWarning, match="n_docs 30 is more than the 20 passages"):
        done = ok(*predict_words(path), "--n_docs", 30)
    assert len(rows_of(done)[0]["passages"]) == 20


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("", [], "expected one question a line, found none"),
        (" \n\n", [], "expected one question a line, found none"),
        ("a", ["--num_return_sequences", "0"], "--num_return_sequences must be at least 1"),
        ("a", ["--num_return_sequences", "6"], "num_return_sequences must be from 1 to 5"),
        ("a", ["--n_docs", "0"], "--n_docs must be at least 1"),
        ("a", ["--index", "nowhere"], "nowhere: no such folder"),
        ("a", ["--questions", "nowhere.txt"], "nowhere.txt: expected a file, found nothing there"),
        ("a", ["--questions", "."], "expected a file, found a folder"),
    ],
)
def test_what_cannot_work_fails_with_one_line(tmp_path, text, words, message):
    error = error_of(*predict_words(text_file(tmp_path, text)), *words)
    assert message in error


def test_a_json_row_without_question_is_named_with_its_line(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "a ?"}\n{"text": "b ?"}\n')
    assert 'q.jsonl:2: expected the key "question"' in error_of(
        *predict_words(tmp_path / "q.jsonl")
    )


def test_a_misspelt_flag_is_answered_with_the_nearest(tmp_path):
    error = usage_error_of(*predict_words("-"), "--num_beam", 4)
    assert "unrecognised flag --num_beam. Did you mean --num_beams?" in error


def test_the_program_reads_stdin_and_writes_nothing_but_json_to_stdout():
    done = subprocess.run(
        [Path(sys.executable).with_name("rag-finetune"), *map(str, predict_words("-"))],
        input="\n".join(QUESTIONS[:2]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["question"] for line in done.stdout.splitlines()] == QUESTIONS[:2]


@pytest.mark.parametrize("folder", ["full", "bare"])
def test_passages_may_be_found_by_words(tmp_path, folder):
    model = words_job() / f"{folder}_model/assembled"
    words = ["--questions", text_file(tmp_path, *QUESTIONS[:2]), "--max_new_tokens", 2]
    done = ok("predict", "--model_name_or_path", model, *words, "--retrieval", "bm25")
    assert [row["passages"][0]["id"] for row in rows_of(done)] == ["1", "2"]


def test_a_prior_changes_the_scores_of_passages(tmp_path):
    words = ["predict", "--model_name_or_path", words_job() / "full_model/assembled"]
    words += ["--questions", text_file(tmp_path, QUESTIONS[0]), "--max_new_tokens", 2]
    [plain] = rows_of(ok(*words, "--retrieval", "bm25"))
    [prior] = rows_of(ok(*words, "--retrieval", "bm25", "--lexical_prior", 2))
    gains = [
        two["score"] - one["score"]
        for one, two in zip(plain["passages"], prior["passages"], strict=True)
    ]
    assert gains == sorted(gains, reverse=True) and gains[-1] > 0


def test_a_reranker_chooses_what_is_read(tmp_path):
    questions = text_file(tmp_path, *QUESTIONS[:4])
    plain = rows_of(ok(*predict_words(questions), "--n_docs", 20))
    words = ["--reranker", save_reranker(tmp_path / "reranker"), "--n_docs", 3]
    for row, whole in zip(rows_of(ok(*predict_words(questions), *words)), plain, strict=True):
        known = {passage["id"]: passage["score"] for passage in whole["passages"]}
        assert len(row["passages"]) == 3 and row["passages"] != whole["passages"][:3]
        for passage in row["passages"]:  # by q·d, of those kept
            assert passage["score"] == pytest.approx(known[passage["id"]], rel=1e-4)
