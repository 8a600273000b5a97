"""`rag-finetune search`, run in this process."""

import re
import shutil
from dataclasses import replace

import pytest
import tiny_rag
from tiny_job import error_of, ok, tiny_job, usage_error_of
from tiny_reranker import save_reranker
from tiny_words import words_job
from transformers import DPRQuestionEncoder

from rag_finetune.cli.search import results_table
from rag_finetune.encoders.load import load_question_encoder
from rag_finetune.index.manifest import load_manifest
from rag_finetune.index.store import open_index
from rag_finetune.retrieval.rerank import load_reranker, passage_text
from rag_finetune.retrieval.way import Retrieval

ADA = "what is the house of ada ?"
ROW = re.compile(r"^ *(\d+) +(-?\d+\.\d{4})  (\S+) +(house of \w+)  +the house of .*$")


def encoder_words():
    encoder = tiny_job() / "parts/question_encoder"
    return ["--index", tiny_job() / "index", "--question_encoder", encoder]


def tables_of(out):
    """Each question with its rows as (rank, score, id, title)."""
    found = []
    blocks = out.strip().split("\n\n")
    for question, table in zip(blocks[::2], blocks[1::2], strict=True):
        header, *rows = table.splitlines()
        assert header.split() == ["rank", "score", "id", "title", "text"]
        found.append((question, [ROW.match(row).groups() for row in rows]))
    return found


def test_the_table_is_what_the_index_finds():
    ((question, rows),) = tables_of(ok("search", ADA, *encoder_words()).out)
    index = open_index(tiny_job() / "index")
    encoder = load_question_encoder(str(tiny_job() / "parts/question_encoder"))
    scores, ids = index.search(encoder.encode([ADA]), 5)
    passages = index.passages[ids[0].tolist()]
    assert question == ADA
    assert [int(rank) for rank, *_ in rows] == [1, 2, 3, 4, 5]
    assert [row[1] for row in rows] == [f"{score:.4f}" for score in scores[0]]
    assert [row[2] for row in rows] == passages["id"]
    assert [row[3] for row in rows] == passages["title"]


def test_several_questions_get_a_table_each_as_if_asked_alone(tmp_path):
    folder = tiny_rag.save_parts(tmp_path)["question_encoder"]
    encoder = DPRQuestionEncoder.from_pretrained(folder)
    tiny_rag.spread(encoder, 1.0)  # so that each question finds passages of its own
    encoder.save_pretrained(folder)
    words = ["--index", tiny_job() / "index", "--question_encoder", folder, "--k", 3]
    other = "who lives in oslo ?"
    both = tables_of(ok("search", ADA, other, *words).out)
    assert both == [tables_of(ok("search", question, *words).out)[0] for question in (ADA, other)]
    assert [row[2] for row in both[0][1]] != [row[2] for row in both[1][1]]


def test_k_above_the_corpus_shows_all_of_it():
    ((_, rows),) = tables_of(ok("search", ADA, *encoder_words(), "--n_docs", 99).out)
    assert sorted(int(row[2]) for row in rows) == list(range(1, 21))


def test_a_checkpoint_brings_its_question_encoder_and_its_index():
    by_parts = ok("search", ADA, *encoder_words())
    by_checkpoint = ok("search", ADA, "--model_name_or_path", tiny_job() / "assembled")
    assert by_checkpoint.out == by_parts.out


def test_another_index_may_be_named_for_a_checkpoint(tmp_path):
    words = ["--model_name_or_path", tiny_job() / "assembled", "--index", tiny_job() / "run/index"]
    assert ok("search", ADA, *words).out == ok("search", ADA, *encoder_words()).out
    tiny_rag.tiny_index(tmp_path / "other")
    error = error_of("search", ADA, *words[:2], "--index", tmp_path / "other")
    assert "Give the index that belongs to this model" in error


def test_an_encoder_of_another_dimension_is_refused(tmp_path):
    parts = tiny_rag.save_parts(tmp_path, width=32)
    words = ["--index", tiny_job() / "index", "--question_encoder", parts["question_encoder"]]
    error = error_of("search", ADA, *words)
    assert "expected 16, found 32. The index was encoded by context_encoder: " in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k", "0"], "--n_docs must be at least 1, found 0."),
        (["--index", "nowhere"], "nowhere: no such folder. Build it"),
        (["--question_encoder", "JOB/parts/context_encoder"], "Was the other encoder of the pair"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_fails_with_one_line(words, message):
    words = [word.replace("JOB", str(tiny_job())) for word in words]
    assert message in error_of("search", ADA, *encoder_words(), *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([ADA], "--question_encoder --model_name_or_path is required"),
        ([ADA, "--question_encoder", "x"], "--question_encoder needs --index"),
        (["--index", "x", "--question_encoder", "y"], "required: question"),
        ([ADA, "--question_encoder", "x", "--model_name_or_path", "y"], "not allowed with"),
        ([ADA, "--index", "x", "--question_encoder", "y", "--n_beams", "3"], "unrecognised flag"),
    ],
)
def test_wrong_usage_ends_with_2(words, message):
    assert message in usage_error_of("search", *words)


def passage(title="t", text="x", id_="1"):
    return {"id": id_, "document_id": id_, "title": title, "text": text}


def test_a_table_fits_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    passages = [passage("word " * 20, "word\n" * 90), passage("short", "x", "long-id")]
    lines = results_table(passages, [1.5, -2.0]).splitlines()
    assert [len(line) <= 80 for line in lines] == [True, True, True]
    assert lines[1].startswith("   1      1.5000  1        word word")
    assert lines[1].endswith("…")
    assert lines[2] == f"   2     -2.0000  long-id  {'short':<30}  x"


def test_text_without_spaces_is_cut_and_not_dropped(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    table = results_table([passage("東" * 40, "京" * 200)], [0.0])
    assert "東" * 29 + "…" in table
    assert "京" * 20 in table


def test_an_empty_title_leaves_its_column_empty():
    assert results_table([passage("")], [0.0]).splitlines()[1] == "   1      0.0000  1          x"


# ---- By words ----


def ids_of(out):
    return [[row[2] for row in rows] for _, rows in tables_of(out)]


@pytest.mark.parametrize(("folder", "way"), [("full", "bm25"), ("bare", "tfidf")])
def test_words_are_searched_without_an_encoder(folder, way):
    index = words_job() / folder
    ((best, *_),) = ids_of(ok("search", ADA, "--index", index, "--retrieval", way).out)
    assert best == "1"


def test_an_index_that_says_words_itself_needs_no_encoder(tmp_path):
    ((best, *_),) = ids_of(ok("search", ADA, "--index", words_job() / "bare").out)
    assert best == "1"
    tuned = shutil.copytree(words_job() / "full", tmp_path / "tuned")
    error = usage_error_of("search", ADA, "--index", tuned)
    assert "--question_encoder --model_name_or_path is required" in error
    manifest = load_manifest(tuned)
    replace(manifest, retrieval=Retrieval("bm25").data()).save(tuned)
    ((best, *_),) = ids_of(ok("search", ADA, "--index", tuned).out)
    assert best == "1"


def test_a_question_that_shares_no_word_finds_nothing():
    words = ["--index", words_job() / "bare", "--retrieval", "bm25"]
    assert "no passage found" in ok("search", "zinc", *words).out


def test_a_hybrid_shows_the_scores_of_its_fusion():
    encoder = ["--question_encoder", words_job() / "full_model/parts/question_encoder"]
    words = ["--index", words_job() / "full", "--retrieval", "hybrid", *encoder]
    ((_, rows),) = tables_of(ok("search", ADA, *words).out)
    scores = [float(row[1]) for row in rows]
    assert scores == sorted(scores, reverse=True) and scores[0] <= 0.0164  # 1 / 61


def test_a_model_over_words_alone_searches_them():
    model = words_job() / "bare_model/assembled"
    assert ids_of(ok("search", ADA, "--model_name_or_path", model).out)[0][0] == "1"


def test_a_way_that_the_index_lacks_is_an_error():
    model = words_job() / "bare_model/assembled"
    error = error_of("search", ADA, "--model_name_or_path", model, "--retrieval", "hybrid")
    assert "needs vectors, but" in error and "has bm25 and tfidf only" in error
    usage = usage_error_of("search", ADA, "--index", words_job() / "full", "--retrieval", "hybrid")
    assert "--question_encoder --model_name_or_path is required" in usage


def test_a_reranker_puts_the_first_passages_in_its_order(tmp_path):
    name = save_reranker(tmp_path)
    plain = [row[2] for row in tables_of(ok("search", ADA, *encoder_words(), "--k", 6).out)[0][1]]
    words = [*encoder_words(), "--reranker", name, "--rerank_top", 6, "--k", 6]
    ((_, rows),) = tables_of(ok("search", ADA, *words).out)
    passages = {row["id"]: row for row in open_index(tiny_job() / "index").passages.to_list()}
    pairs = [(ADA, passage_text(passages[row_id])) for row_id in plain]
    logits = dict(zip(plain, load_reranker(name).score(pairs).tolist(), strict=True))
    expected = sorted(plain, key=lambda row_id: -logits[row_id])
    assert [row[2] for row in rows] == expected != plain
    assert [float(row[1]) for row in rows] == pytest.approx(sorted(logits.values())[::-1], abs=1e-4)


def test_rerank_top_without_a_reranker_is_an_error():
    error = error_of("search", ADA, *encoder_words(), "--rerank_top", 6)
    assert "--rerank_top says how many passages --reranker looks at" in error
