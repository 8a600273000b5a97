"""An exact search, and the figures of hand-made vectors."""

import numpy as np
import pytest
import tiny_rag
import tiny_retriever
from datasets import Dataset

from rag_finetune.evaluation.retrieval_only import evaluate_retrieval
from rag_finetune.index.build import build_index
from rag_finetune.training import retriever_evaluation
from rag_finetune.training.retriever_evaluation import exact_search, retrieval_figures


def test_the_search_is_exact_in_blocks_too(monkeypatch):
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((30, 4)).astype(np.float32)
    questions = draw.standard_normal((7, 4)).astype(np.float32)
    expected = np.argsort(-(questions @ vectors.T), axis=1)
    assert (exact_search(questions, vectors, 5) == expected[:, :5]).all()
    monkeypatch.setattr(retriever_evaluation, "VALUES_PER_BLOCK", 60)
    assert (exact_search(questions, vectors, 50) == expected).all()


def test_the_figures_are_those_of_evaluate_on_a_flat_index(tmp_path):
    pair = tiny_retriever.encoders()
    questions, passages = tiny_rag.questions(20), tiny_rag.passages()
    found = retrieval_figures(*pair, questions, passages)
    index = build_index(passages, pair[1], tmp_path / "index")
    expected = evaluate_retrieval(pair[0], index, questions).metrics
    assert 0 < found["recall@5"] < 1
    assert {"gold_recall@5", "ndcg@10", "map@20", "answer_recall@5"} <= {*found}
    of_health = {"distinct_passages", "top1_frequency", "doc_entropy", "answer_in_corpus"}
    assert found == pytest.approx({n: v for n, v in expected.items() if n not in of_health})


def test_grades_count_as_in_evaluate(tmp_path):
    pair, passages = tiny_retriever.encoders(), tiny_rag.passages()
    ids = passages["id"]
    rows = [
        {**row, "positive_ids": [*row["positive_ids"], ids[-1]], "positive_grades": [1.0, 9.0]}
        for row in tiny_rag.questions(5)
    ]
    plain = [{key: row[key] for key in row if key != "positive_grades"} for row in rows]
    questions = Dataset.from_list(rows)
    found = retrieval_figures(*pair, questions, passages)
    index = build_index(passages, pair[1], tmp_path / "index")
    expected = evaluate_retrieval(pair[0], index, questions).metrics["ndcg@10"]
    assert found["ndcg@10"] == pytest.approx(expected)
    without = retrieval_figures(*pair, Dataset.from_list(plain), passages)
    assert without["ndcg@10"] != pytest.approx(expected)


def test_figures_of_gold_are_over_questions_that_have_some():
    rows = tiny_rag.questions(4).to_list()
    rows[0]["positive_ids"] = []
    known = Dataset.from_list(rows)
    pair, passages = tiny_retriever.encoders(), tiny_rag.passages()
    found, alone = (
        retrieval_figures(*pair, questions, passages)
        for questions in (known, known.select([1, 2, 3]))
    )
    assert (found["n_examples"], alone["n_examples"]) == (4, 3)
    for name in ("recall@1", "recall@20", "mrr@10", "ndcg@10", "map@20"):
        assert found[name] == alone[name]
    with pytest.raises(ValueError, match="No validation question has gold passages"):
        retrieval_figures(*pair, known.select([0]), passages)


def test_without_answers_there_is_no_answer_recall():
    rows = [{**row, "answers": [""]} for row in tiny_rag.questions(3)]
    questions = Dataset.from_list(rows)
    found = retrieval_figures(*tiny_retriever.encoders(), questions, tiny_rag.passages())
    assert "recall@5" in found and not any("answer" in name for name in found)
