"""`rag-finetune evaluate`, run in this process."""

import json
import math
import shutil

import pytest
import tiny_encoders
import tiny_rag
from tiny_job import error_of, files_under, learnt_checkpoint, ok, tiny_job, usage_error_of
from tiny_reranker import save_reranker
from tiny_words import words_job

METRICS = set(
    "exact_match f1 bleu rouge1 rouge2 rougeL recall@1 recall@5 recall@10 recall@20 mrr@10 ndcg@10 "
    "precision@1 precision@5 precision@10 precision@20 map@20 "
    "gold_recall@1 gold_recall@5 gold_recall@10 gold_recall@20 "
    "answer_recall@1 answer_recall@5 answer_recall@10 answer_recall@20 answer_in_corpus "
    "distinct_passages top1_frequency doc_entropy n_examples".split()
)
AT_7 = {"recall@7", "precision@7", "gold_recall@7", "answer_recall@7"}
ANSWERS = {"exact_match", "f1", "bleu", "rouge1", "rouge2", "rougeL"}


def evaluate_words(output, *, model=None):
    model = model or tiny_job() / "run"
    words = ["--model_name_or_path", model, "--eval_file", tiny_job() / "train.json"]
    return ["evaluate", *words, "--output_dir", output]


def metrics_in(folder):
    return json.loads((folder / "metrics.json").read_text())


def predictions_in(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_evaluate_leaves_metrics_and_predictions(tmp_path):
    done = ok(*evaluate_words(tmp_path / "evaluation"))
    assert files_under(tmp_path / "evaluation") == {"metrics.json", "predictions.jsonl"}
    metrics = metrics_in(tmp_path / "evaluation")
    assert set(metrics) == METRICS
    assert all(type(value) in (int, float) for value in metrics.values())
    assert metrics["n_examples"] == 20
    assert metrics["recall@20"] == metrics["answer_in_corpus"] == 1.0  # all twenty are searched
    table = dict(line.split()[:2] for line in done.out.splitlines() if "  " in line)
    assert set(table) == METRICS
    assert (table["recall@20"], table["n_examples"]) == ("100.0", "20")


def test_each_prediction_comes_with_its_passages(tmp_path):
    ok(*evaluate_words(tmp_path))
    rows = predictions_in(tmp_path)
    facts = tiny_rag.facts()
    assert [row["id"] for row in rows] == [str(number) for number in range(20)]
    assert [row["question"] for row in rows] == [fact["question"] for fact in facts]
    assert [row["answers"] for row in rows] == [[fact["answer"]] for fact in facts]
    for row in rows:
        keys = {"id", "question", "answers", "prediction", "score", "passages"}
        assert set(row) == keys
        assert len(row["passages"]) == 5
        scores = [passage["score"] for passage in row["passages"]]
        assert scores == sorted(scores, reverse=True)
        for passage in row["passages"]:
            assert set(passage) == {"id", "title", "text", "score", "posterior"}
        assert sum(p["posterior"] for p in row["passages"]) == pytest.approx(1.0, abs=1e-4)


def test_an_evaluation_is_not_overwritten_unless_asked_to(tmp_path):
    ok(*evaluate_words(tmp_path))
    before = metrics_in(tmp_path)
    assert "Choose another folder, or give --overwrite." in error_of(*evaluate_words(tmp_path))
    assert "--overwrite" in error_of(*evaluate_words(tmp_path), "--overwrite", "false")
    ok(*evaluate_words(tmp_path), "--overwrite", "--n_docs", 3)
    assert metrics_in(tmp_path) != before
    assert {len(row["passages"]) for row in predictions_in(tmp_path)} == {3}


def test_a_run_that_was_moved_gives_the_same_metrics(tmp_path, monkeypatch):
    shutil.copytree(learnt_checkpoint(), tmp_path / "run")
    ok(*evaluate_words(tmp_path / "first", model=tmp_path / "run"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").rename(tmp_path / "elsewhere" / "kept")
    monkeypatch.chdir(tmp_path / "elsewhere")
    ok(*evaluate_words(tmp_path / "second", model="kept"))
    assert metrics_in(tmp_path / "first")["exact_match"] >= 0.8
    for name in ("metrics.json", "predictions.jsonl"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_the_batch_size_changes_nothing(tmp_path):
    for size in (1, 20):
        words = evaluate_words(tmp_path / str(size), model=learnt_checkpoint())
        ok(*words, "--batch_size", size)
    alone, together = metrics_in(tmp_path / "1"), metrics_in(tmp_path / "20")
    assert alone == pytest.approx(together, rel=1e-6)
    pairs = zip(predictions_in(tmp_path / "1"), predictions_in(tmp_path / "20"), strict=True)
    for one, other in pairs:
        assert one["prediction"] == other["prediction"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert [p["id"] for p in one["passages"]] == [p["id"] for p in other["passages"]]
        scores = [p["score"] for p in other["passages"]]
        assert [p["score"] for p in one["passages"]] == pytest.approx(scores, abs=1e-6)


def test_more_passages_than_twenty_add_their_recall(tmp_path):
    ok(*evaluate_words(tmp_path), "--n_docs", 7)
    assert AT_7 == set(metrics_in(tmp_path)) - METRICS


def test_the_length_of_answers_and_the_decoding_are_what_the_flags_say(tmp_path):
    ok(*evaluate_words(tmp_path / "whole", model=learnt_checkpoint()))
    words = ["--max_new_tokens", 3, "--num_beams", 3, "--decoding", "fast"]
    ok(*evaluate_words(tmp_path / "short", model=learnt_checkpoint()), *words)
    pairs = zip(predictions_in(tmp_path / "short"), predictions_in(tmp_path / "whole"), strict=True)
    for short, whole in pairs:
        assert len(short["prediction"].split()) <= 2
        if short["prediction"] == whole["prediction"]:
            # Counted only under the passages whose search found it: never above the whole sum.
            assert short["score"] <= whole["score"] + 1e-5
    assert metrics_in(tmp_path / "short")["f1"] > 0.4
    assert metrics_in(tmp_path / "short") != metrics_in(tmp_path / "whole")


def test_retrieval_only_measures_no_answers(tmp_path):
    ok(*evaluate_words(tmp_path / "whole"))
    ok(*evaluate_words(tmp_path / "retrieval"), "--retrieval_only")
    metrics, whole = metrics_in(tmp_path / "retrieval"), metrics_in(tmp_path / "whole")
    assert set(metrics) == METRICS - ANSWERS
    for name in metrics:
        if name.startswith(("recall", "mrr", "answer")):
            assert metrics[name] == whole[name], name
    row = predictions_in(tmp_path / "retrieval")[0]
    assert set(row) == {"id", "question", "answers", "passages"}
    assert len(row["passages"]) == 20


def test_retrieval_only_looks_at_n_docs_passages_too(tmp_path):
    ok(*evaluate_words(tmp_path), "--retrieval_only", "--n_docs", 7)
    assert AT_7 == set(metrics_in(tmp_path)) - METRICS


@pytest.mark.parametrize("flag", ["--num_beams", "--max_new_tokens"])
def test_retrieval_only_takes_no_flag_of_answering(tmp_path, flag):
    error = usage_error_of(*evaluate_words(tmp_path), "--retrieval_only", flag, 4)
    assert flag in error


def test_retrieval_only_does_without_a_checkpoint(tmp_path):
    ok(*evaluate_words(tmp_path / "a", model=tiny_job() / "assembled"), "--retrieval_only")
    words = ["--question_encoder", tiny_job() / "parts/question_encoder"]
    words += ["--index", tiny_job() / "index", "--eval_file", tiny_job() / "train.json"]
    ok("evaluate", "--retrieval_only", *words, "--output_dir", tmp_path / "b")
    assert metrics_in(tmp_path / "a") == metrics_in(tmp_path / "b")


def test_what_was_found_is_written_as_a_trec_run_and_measured_again(tmp_path):
    words = [*evaluate_words(tmp_path / "a"), "--retrieval_only", "--run_file", tmp_path / "a.trec"]
    ok(*words)
    lines = (tmp_path / "a.trec").read_text().splitlines()
    first = predictions_in(tmp_path / "a")[0]["passages"][0]
    assert lines[0].split()[:4] == ["0", "Q0", first["id"], "1"]
    assert float(lines[0].split()[4]) == pytest.approx(first["score"], abs=1e-5)
    assert len(lines) == 20 * 20
    assert "exists. Choose another file" in error_of(*words, "--output_dir", tmp_path / "b")
    ok(*words, "--overwrite")
    words = ["--from_run", tmp_path / "a.trec", "--eval_file", tiny_job() / "train.json"]
    words = ["evaluate", "--retrieval_only", *words, "--index", tiny_job() / "index"]
    ok(*words, "--output_dir", tmp_path / "b")
    searched, measured = metrics_in(tmp_path / "a"), metrics_in(tmp_path / "b")
    assert set(searched) - set(measured) == {"distinct_passages", "top1_frequency", "doc_entropy"}
    assert measured == {name: searched[name] for name in measured}


def test_a_run_is_measured_against_graded_judgements_of_beir(tmp_path):
    rows = "q1\td1\t2\nq1\td2\t1\nq1\td3\t0\nq2\td3\t1\n"
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    queries = '{"_id": "q1", "text": "who?"}\n{"_id": "q2", "text": "why?"}\n'
    (tmp_path / "queries.jsonl").write_text(queries)
    (tmp_path / "run").write_text("q1 Q0 d2 1 3.5 t\nq1 Q0 d3 2 2.5 t\nq1 Q0 d1 3 1.5 t\n")
    words = ["--from_run", tmp_path / "run", "--eval_file", tmp_path / "qrels/test.tsv"]
    with pytest.warns(UserWarning, match="1 of 2 questions are not in the run"):
        ok("evaluate", "--retrieval_only", *words, "--output_dir", tmp_path / "e")
    metrics = metrics_in(tmp_path / "e")
    ideal = 2 + 1 / math.log2(3)
    assert metrics["ndcg@10"] == pytest.approx((1 + 2 / 2) / ideal / 2)
    assert metrics["map@20"] == pytest.approx((1 + 2 / 3) / 2 / 2)
    assert (metrics["recall@1"], metrics["gold_recall@1"], metrics["n_examples"]) == (0.5, 0.25, 2)


@pytest.mark.parametrize(
    "words",
    [
        ["--run_file", "r"],
        ["--from_run", "r"],
        ["--retrieval_only", "--from_run", "r", "--run_file", "s"],
    ],
    ids=" ".join,
)
def test_run_files_are_for_retrieval_alone_and_one_way(tmp_path, words):
    assert "--run_file" in usage_error_of(*evaluate_words(tmp_path), *words)


def test_questions_without_gold_have_no_recall(tmp_path):
    (tmp_path / "qa.jsonl").write_text('{"question": "what is the house of ada ?", "answer": "x"}')
    ok(*evaluate_words(tmp_path), "--eval_file", tmp_path / "qa.jsonl")
    metrics = metrics_in(tmp_path)
    assert not any(name.startswith(("recall@", "mrr@")) for name in metrics)
    assert metrics["answer_in_corpus"] == 0.0


def test_an_index_of_another_encoder_is_refused_and_says_whose_it_is(tmp_path):
    tiny_rag.tiny_index(tmp_path / "other")
    error = error_of(*evaluate_words(tmp_path / "x"), "--index", tmp_path / "other")
    assert f"{tmp_path / 'other'}: expected vectors of the encoder with fingerprint" in error
    assert "Give the index that belongs to this model" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n_docs", "0"], "--n_docs must be at least 1, found 0."),
        (["--num_beams", "0"], "--num_beams must be at least 1, found 0."),
        (["--max_new_tokens", "0"], "--max_new_tokens must be at least 1, found 0."),
        (["--batch_size", "0"], "--batch_size must be at least 1, found 0."),
        (["--max_question_length", "0"], "--max_question_length must be at least 1, found 0."),
        (["--eval_file", "nowhere.json"], "nowhere.json: expected a file, found nothing there."),
        (["--model_name_or_path", "./nowhere"], "./nowhere: no such folder."),
        (["--model_name_or_path", "JOB/parts/generator"], "`rag-finetune assemble`"),
        (["--model_name_or_path", "JOB/parts"], "not a checkpoint, config.json is missing"),
        (["--index", "JOB/run"], "not an index folder, manifest.json is missing"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file. --config needs a YAML file."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_fails_with_one_line_and_leaves_nothing(tmp_path, words, message):
    words = [word.replace("JOB", str(tiny_job())) for word in words]
    assert message in error_of(*evaluate_words(tmp_path / "evaluation"), *words)
    assert not (tmp_path / "evaluation").exists()


def test_an_output_that_cannot_be_made_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("rag_finetune.rag.checkpoint.load_rag", lambda *args, **kwargs: 1 / 0)
    (tmp_path / "file").write_text("")
    assert "Not a directory" in error_of(*evaluate_words(tmp_path / "file" / "evaluation"))
    assert "is a file" in error_of(*evaluate_words("/dev/null"))


def test_an_evaluation_that_fails_leaves_no_folder_above_its_own(tmp_path):
    error_of(*evaluate_words(tmp_path / "deep" / "evaluation"), "--model_name_or_path", "./nowhere")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("rag_finetune.rag.checkpoint.load_rag", lambda *args, **kwargs: 1 / 0)
    (tmp_path / "file").write_text("")
    assert "is a file. Choose a folder" in error_of(*evaluate_words(tmp_path / "file"))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--retrieval_only"],
        ["--question_encoder", "x"],
        ["--question_encoder", "x", "--index", "y"],
        ["--question_encoder", "x", "--retrieval_only"],
        "--question_encoder x --retrieval_only --index y --model_name_or_path z".split(),
    ],
    ids=" ".join,
)
def test_flags_that_do_not_go_together_are_wrong_usage(tmp_path, words):
    error = usage_error_of("evaluate", "--eval_file", "q", "--output_dir", tmp_path / "x", *words)
    assert "--retrieval_only" in error
    assert "--question_encoder" in error


def test_questions_without_answers_are_for_retrieval_only(tmp_path):
    rows = [{"question": f["question"], "context": f["text"]} for f in tiny_rag.facts()]
    (tmp_path / "qa.json").write_text(json.dumps(rows))
    words = [*evaluate_words(tmp_path / "e"), "--eval_file", tmp_path / "qa.json"]
    assert "answer" in error_of(*words)
    ok(*words, "--retrieval_only")
    metrics = metrics_in(tmp_path / "e")
    assert metrics["recall@20"] == 1.0  # the contexts are the twenty passages
    assert not any(name.startswith("answer_") for name in metrics)


def test_only_the_first_questions_are_evaluated_where_a_number_is_given(tmp_path):
    done = ok(*evaluate_words(tmp_path / "e"), "--max_eval_samples", 3)
    assert "The first 3 questions of" in done.out
    assert metrics_in(tmp_path / "e")["n_examples"] == 3
    error = error_of(*evaluate_words(tmp_path / "f"), "--max_eval_samples", 0)
    assert "--max_eval_samples must be at least 1" in error


def test_a_bare_encoder_is_pooled_as_the_flags_say(tmp_path):
    encoder = tiny_encoders.save_bare(tmp_path / "encoder")
    how = ["--pooling", "cls", "--normalize"]
    words = ["--passages", tiny_job() / "passages.jsonl", "--context_encoder", encoder, *how]
    ok("index", *words, "--output_dir", tmp_path / "index")
    words = ["--retrieval_only", "--question_encoder", encoder, "--index", tmp_path / "index"]
    words += ["--eval_file", tiny_job() / "train.json"]
    for name, flags in (("a", how), ("b", [*how, "--question_prefix", "who lives in oslo ? "])):
        ok("evaluate", *words, *flags, "--output_dir", tmp_path / name)
    scores = [
        json.loads((tmp_path / name / "predictions.jsonl").read_text().splitlines()[0])
        for name in ("a", "b")
    ]
    best = [row["passages"][0]["score"] for row in scores]
    assert all(score <= 1 + 1e-5 for score in best)
    assert best[0] != best[1]


# ---- By words ----


def words_of(output, folder, *more):
    """Evaluate a model over an index with vectors ("full") or without ("bare")."""
    model = words_job() / f"{folder}_model/assembled"
    return [*evaluate_words(output, model=model), *more]


@pytest.mark.parametrize("folder", ["full", "bare"])
@pytest.mark.parametrize("way", ["bm25", "tfidf"])
def test_answers_rest_on_passages_that_words_find(tmp_path, folder, way):
    ok(*words_of(tmp_path, folder, "--retrieval", way, "--max_new_tokens", 2))
    metrics = metrics_in(tmp_path)
    assert metrics["recall@1"] == 1.0
    assert set(metrics) == METRICS


@pytest.mark.parametrize("way", ["dense", "bm25", "hybrid"])
def test_retrieval_alone_gives_the_figures_of_the_whole_whichever_way(tmp_path, way):
    words = ["--retrieval", way, "--lexical_prior", "0.2"]
    ok(*words_of(tmp_path / "whole", "full", "--max_new_tokens", 2, *words))
    ok(*words_of(tmp_path / "alone", "full", "--retrieval_only", *words))
    whole, alone = metrics_in(tmp_path / "whole"), metrics_in(tmp_path / "alone")
    assert set(whole) - set(alone) == ANSWERS
    assert alone == pytest.approx({name: whole[name] for name in alone}, rel=1e-4)


def test_words_are_measured_without_a_model(tmp_path):
    words = ["--eval_file", tiny_job() / "train.json", "--output_dir", tmp_path, "--retrieval_only"]
    ok("evaluate", *words, "--index", words_job() / "bare", "--retrieval", "bm25")
    assert metrics_in(tmp_path)["recall@1"] == 1.0
    [first, *_] = predictions_in(tmp_path)
    scores = [passage["score"] for passage in first["passages"]]
    assert scores == sorted(scores, reverse=True) and scores[-1] > 0
    ok("evaluate", *words, "--index", words_job() / "bare", "--overwrite")  # it has words alone
    assert predictions_in(tmp_path)[0] == first
    error = usage_error_of("evaluate", *words, "--index", words_job() / "full")
    assert "--retrieval_only with --question_encoder" in error


def test_a_way_that_the_index_lacks_is_an_error_and_no_other_is_taken(tmp_path):
    words = evaluate_words(tmp_path / "out")
    assert "needs bm25, but" in error_of(*words, "--retrieval", "bm25")
    assert "needs bm25, but" in error_of(*words, "--lexical_prior", "0.5")
    assert not (tmp_path / "out").exists()


def test_a_reranker_orders_the_passages_and_leaves_their_scores(tmp_path):
    words = evaluate_words(tmp_path / "plain")
    ok(*words, "--retrieval_only")
    reranked = ["--reranker", save_reranker(tmp_path / "reranker"), "--rerank_top", 20]
    ok(*evaluate_words(tmp_path / "alone"), "--retrieval_only", *reranked)
    ok(*evaluate_words(tmp_path / "whole"), *reranked)
    rows = [predictions_in(tmp_path / name) for name in ("plain", "alone", "whole")]
    orders = [[[p["id"] for p in row["passages"]] for row in found] for found in rows]
    assert orders[0] != orders[1]
    assert [ids[:5] for ids in orders[1]] == [ids[:5] for ids in orders[2]]
    for plain, alone in zip(*rows[:2], strict=True):  # q·d, whatever the order
        of_plain, of_alone = (
            {p["id"]: p["score"] for p in row["passages"]} for row in (plain, alone)
        )
        assert of_alone == pytest.approx(of_plain, rel=1e-5)
    figures = [metrics_in(tmp_path / name)["mrr@10"] for name in ("plain", "alone", "whole")]
    assert figures[0] != figures[1] == figures[2]
