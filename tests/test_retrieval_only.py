"""Retrieval without a generator."""

import math

import pytest
import tiny_rag
import tiny_words
from test_evaluate import FACTS, RETRIEVAL, TEXT, make_questions
from trained_rag import trained_rag

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.evaluation.evaluate import evaluate_rag
from rag_finetune.evaluation.retrieval_only import evaluate_retrieval
from rag_finetune.rag.checkpoint import Rag


@pytest.fixture(scope="module")
def rag() -> Rag:
    return trained_rag("bart", "rag_sequence")


def question_encoder(rag: Rag) -> TextEncoder:
    return TextEncoder(rag.model.question_encoder, rag.tokenizer.question_encoder, 64)


@pytest.mark.parametrize("n_docs", [3, 5, 20])
def test_retrieval_alone_gives_the_figures_of_the_whole(rag, n_docs):
    questions = tiny_rag.questions()
    whole = evaluate_rag(rag, questions, n_docs=n_docs, max_new_tokens=2)
    alone = evaluate_retrieval(question_encoder(rag), rag.retriever.index, questions, n_docs=n_docs)
    assert set(alone.metrics) >= {*RETRIEVAL, f"recall@{n_docs}", "n_examples"}
    assert set(whole.metrics) - set(alone.metrics) == set(TEXT)
    expected = {name: whole.metrics[name] for name in alone.metrics}
    assert alone.metrics == pytest.approx(expected, rel=1e-4)
    for one, other in zip(alone.predictions, whole.predictions, strict=True):
        assert list(one) == ["id", "question", "answers", "passages"]
        read = one["passages"][:n_docs]
        assert len(one["passages"]) == 20
        assert [p["id"] for p in read] == [p["id"] for p in other["passages"]]
        scores = [passage["score"] for passage in read]
        assert scores == pytest.approx([p["score"] for p in other["passages"]], abs=1e-5)
        assert list(one["passages"][0]) == ["id", "title", "text", "score"]


def test_retrieval_alone_needs_no_positive_ids(rag):
    rows = [(fact["question"], [fact["answer"]], []) for fact in FACTS]
    alone = evaluate_retrieval(question_encoder(rag), rag.retriever.index, make_questions(*rows))
    assert "recall@1" not in alone.metrics and "answer_recall@1" in alone.metrics


# ---- By words ----


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return tiny_words.word_index(tmp_path_factory.mktemp("words") / "index")


def test_words_need_no_encoder(words):
    found = evaluate_retrieval(None, words, tiny_rag.questions())
    assert found.metrics["recall@1"] == 1.0
    scores, rows = words.lexical("bm25").search([FACTS[3]["question"]], 20)
    passages = found.predictions[3]["passages"]
    assert [p["id"] for p in passages] == [str(row + 1) for row in rows[0]]
    assert [p["score"] for p in passages] == pytest.approx(scores[0].tolist())


def test_questions_that_share_no_word_are_counted_and_spoil_no_figure(words):
    asked = make_questions((FACTS[0]["question"], ["x"], ["1"]), ("zinc", ["x"], ["2"]))
    with pytest.warns(UserWarning, match=r"1 of 2 questions find no passage .* word of the quest"):
        found = evaluate_retrieval(None, words, asked)
    assert found.metrics["recall@1"] == 0.5 and found.predictions[1]["passages"] == []
    assert all(math.isfinite(value) for value in found.metrics.values())


def test_vectors_need_an_encoder(rag):
    with pytest.raises(ValueError, match="retrieval by dense needs a question encoder"):
        evaluate_retrieval(None, rag.retriever.index, tiny_rag.questions())
