"""An exact search, and the figures of hand-made vectors."""

import numpy as np
import pytest
import tiny_rag
import tiny_retriever

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
    assert found == {name: pytest.approx(expected[name]) for name in found}


def test_questions_without_gold_do_not_count():
    rows = tiny_rag.questions(4).to_list()
    rows[0]["positive_ids"] = []
    known = type(tiny_rag.questions(1)).from_list(rows)
    pair, passages = tiny_retriever.encoders(), tiny_rag.passages()
    assert retrieval_figures(*pair, known, passages)["n_examples"] == 3
    with pytest.raises(ValueError, match="No validation question has gold passages"):
        retrieval_figures(*pair, known.select([0]), passages)
