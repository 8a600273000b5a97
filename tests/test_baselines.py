"""What a model must beat, on the twenty facts."""

import importlib.util
import math

import bm25s
import pytest
import tiny_rag
import tiny_words
from datasets import Dataset
from trained_rag import trained_rag

from rag_finetune.data.qa import FEATURES
from rag_finetune.evaluation.baselines import (
    bm25_of,
    evaluate_closed_book,
    evaluate_lexical,
    evaluate_most_frequent,
)
from rag_finetune.evaluation.evaluate import evaluate_rag
from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.retrieval.search import Searcher
from rag_finetune.retrieval.way import Retrieval

RETRIEVAL = ("recall", "mrr", "ndcg", "answer_", "distinct_", "top1_", "doc_")


def rows(*pairs):
    """A dataset of (id, answers) pairs."""
    table = [
        {"id": id, "question": f"what is {id} ?", "answers": answers, "positive_ids": []}
        for id, answers in pairs
    ]
    return Dataset.from_list(table, features=FEATURES)


def said(rag, read):
    """What the generator alone says to one text."""
    ids = rag.model.rag.generator.generate(**read)
    return rag.tokenizer.generator.batch_decode(ids, skip_special_tokens=True)[0].strip()


@pytest.fixture(params=["rag_sequence", "rag_token"])
def rag(request):
    return trained_rag("bart", request.param)


# ---- Closed book ----


def test_a_closed_book_gives_answers_and_no_figure_of_retrieval(rag):
    evaluation = evaluate_closed_book(rag, tiny_rag.questions(), batch_size=7)
    assert {"exact_match", "f1"} <= set(evaluation.metrics)
    assert not [name for name in evaluation.metrics if name.startswith(RETRIEVAL)]
    assert evaluation.metrics["n_examples"] == 20
    assert [row["passages"] for row in evaluation.predictions] == [[]] * 20
    assert [row["id"] for row in evaluation.predictions] == tiny_rag.questions()["id"][:]


def test_a_closed_book_is_the_generator_on_an_empty_passage(rag):
    question = tiny_rag.facts()[3]["question"]
    [row] = evaluate_closed_book(rag, tiny_rag.questions().select([3])).predictions
    tokenizer = rag.tokenizer.generator
    config = rag.model.config
    read = tokenizer(config.title_sep + config.doc_sep + question, return_tensors="pt")
    assert row["prediction"] == said(rag, read)


def test_facts_cannot_be_answered_from_a_closed_book_as_well_as_with_passages(tmp_path):
    # It was trained with passages of other facts beside it, so some are answered by heart.
    rag = trained_rag("bart", "rag_sequence")
    closed = evaluate_closed_book(rag, tiny_rag.questions()).metrics["exact_match"]
    assert closed < evaluate_rag(rag, tiny_rag.questions()).metrics["exact_match"]


# ---- BM25 ----


def test_a_question_that_shares_no_word_is_answered_without_evidence(rag):
    asked = tiny_rag.questions().select([0]).map(lambda row: {"question": "wer ?"})
    with pytest.warns(UserWarning, match="1 of 1 questions find no passage .* has a word of the"):
        [row] = evaluate_lexical(rag, asked).predictions
    assert row["passages"] == [] and math.isfinite(row["score"])


def test_the_generator_answers_from_what_bm25_finds(rag):
    evaluation = evaluate_lexical(rag, tiny_rag.questions(), n_docs=1)
    assert evaluation.metrics["recall@1"] == 1.0  # each question has the name of its house
    assert "recall@20" in evaluation.metrics
    for fact, row in zip(tiny_rag.facts(), evaluation.predictions, strict=True):
        [passage] = row["passages"]
        assert (passage["title"], passage["posterior"]) == (fact["title"], 1.0)
        config = rag.model.config
        text = fact["title"] + config.title_sep + fact["text"] + config.doc_sep + fact["question"]
        assert row["prediction"] == said(rag, rag.tokenizer.generator(text, return_tensors="pt"))


def test_the_scores_of_bm25_weigh_the_passages(rag):
    evaluation = evaluate_lexical(rag, tiny_rag.questions(), n_docs=3)
    scores, found = bm25_of(rag.retriever.index).search([tiny_rag.facts()[0]["question"]], 3)
    passages = evaluation.predictions[0]["passages"]
    ids = [tiny_rag.facts()[row]["id"] for row in found[0]]
    assert [p["id"] for p in passages] == ids
    assert [p["score"] for p in passages] == scores[0].tolist()
    assert sum(p["posterior"] for p in passages) == pytest.approx(1.0)


def test_the_baseline_ranks_as_a_search_by_words_does_equal_scores_too(rag, tmp_path):
    asked = ["who has the old house ?", "the dog", "oslo", tiny_rag.facts()[7]["question"]]
    questions = tiny_rag.questions(4).map(lambda row, number: {"question": asked[number]}, True)
    index = tiny_words.word_index(tmp_path / "words")
    scores, found = Searcher(index, Retrieval("bm25")).search(None, asked, 20)
    evaluation = evaluate_lexical(rag, questions, n_docs=20, max_new_tokens=1)
    ties = 0
    for row, of_search, ids in zip(evaluation.predictions, scores, found, strict=True):
        expected = [str(number + 1) for number in ids if number >= 0]
        assert [passage["id"] for passage in row["passages"]] == expected
        held = [passage["score"] for passage in row["passages"]]
        assert held == of_search[: len(held)].tolist()
        ties += len(held) - len(set(held))
    assert ties >= 5


def test_an_index_is_made_ready_for_bm25_once(rag, monkeypatch):
    made = []
    real = bm25s.BM25.index
    monkeypatch.setattr(
        bm25s.BM25, "index", lambda *words, **more: (made.append(1), real(*words, **more))
    )
    bm25_of.cache_clear()
    for _ in range(2):
        evaluate_lexical(rag, tiny_rag.questions().select([0]))
    assert made == [1]


def test_what_bm25_finds_does_not_depend_on_the_batch(rag):
    whole = evaluate_lexical(rag, tiny_rag.questions(), batch_size=20).metrics
    single = evaluate_lexical(rag, tiny_rag.questions(), batch_size=1).metrics
    assert single == pytest.approx(whole, rel=1e-5)


def test_without_bm25s_the_extra_is_named(rag, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bm25s" else found(name)
    )
    with pytest.raises(ValueError, match=r"pip install 'rag-finetune\[lexical\]'"):
        evaluate_lexical(rag, tiny_rag.questions())


@pytest.mark.parametrize("evaluate", [evaluate_closed_book, evaluate_lexical])
def test_a_model_without_its_index_is_refused(tmp_path, evaluate):
    tiny_rag.tiny_rag(tmp_path)
    bare = load_rag(tmp_path / "assembled", with_index=False)
    with pytest.raises(ValueError, match="load the model with its index"):
        evaluate(bare, tiny_rag.questions())


# ---- The most frequent answer ----


def first_letter(id):
    return id[0]


def test_the_most_frequent_answer_is_that_of_the_kind():
    train = rows(
        ("a1", ["red", "blue"]), ("a2", ["blue"]), ("a3", ["red"]), ("b1", ["one"]), ("b2", ["two"])
    )
    asked = rows(("a9", ["Red"]), ("a8", ["blue"]), ("b9", ["one"]), ("c9", ["red"]))
    evaluation = evaluate_most_frequent(train, asked, first_letter)
    answers = [row["prediction"] for row in evaluation.predictions]
    assert answers == ["red", "red", "one", "red"]  # of b the first seen, of c the one of all
    shares = [math.exp(row["score"]) for row in evaluation.predictions]
    assert shares == pytest.approx([2 / 3, 2 / 3, 1 / 2, 2 / 5])
    assert evaluation.metrics["exact_match"] == 0.75
    assert not [name for name in evaluation.metrics if name.startswith(RETRIEVAL)]


def test_training_questions_without_any_answer_are_an_error():
    with pytest.raises(ValueError, match="None of the questions has an answer"):
        evaluate_most_frequent(rows(("a", [])), rows(("b", ["x"])), first_letter)
    some = rows(("a", ["x"]))
    with pytest.raises(ValueError, match="no question to evaluate"):
        evaluate_most_frequent(some, some.select([]), first_letter)
    with pytest.raises(ValueError, match="no training question"):
        evaluate_most_frequent(some.select([]), some, first_letter)
