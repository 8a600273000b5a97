"""A cross-encoder scores the candidates once."""

import pytest
import tiny_encoders
import tiny_rag
import tiny_retriever
import torch
from tiny_reranker import save_reranker
from transformers import AutoModelForSequenceClassification

from rag_finetune.training.teacher import score_candidates


@pytest.mark.parametrize("n_logits", [1, 2])
def test_every_candidate_gets_the_logit_of_its_pair(tmp_path, n_logits):
    model = AutoModelForSequenceClassification.from_pretrained(save_reranker(tmp_path, n_logits))
    data = tiny_retriever.examples(4, n_negatives=2)
    score_candidates(data, str(tmp_path), "cpu", max_length=64)
    tokenizer = tiny_rag.word_tokenizer("bert")
    for row in range(4):
        for passage in (*data.positives[row], *data.negatives[row]):
            text = f"{data.passages.titles[passage]} {data.passages.texts[passage]}"
            pair = tokenizer(data.questions[row], text, return_tensors="pt")
            with torch.no_grad():
                logits = model.eval()(**pair).logits[0].tolist()
            expected = logits[0] if n_logits == 1 else logits[1] - logits[0]
            assert data.teacher_scores[row, passage] == pytest.approx(expected, abs=1e-5)


def test_scores_of_a_file_that_are_scored_again_are_replaced(tmp_path):
    data = tiny_retriever.examples(4, n_negatives=2)
    before = dict(data.teacher_scores)
    score_candidates(data, save_reranker(tmp_path), "cpu")
    assert data.teacher_scores.keys() == before.keys()
    assert all(data.teacher_scores[key] != score for key, score in before.items())


def test_what_is_no_cross_encoder_is_no_teacher(tmp_path):
    data = tiny_retriever.examples(4, n_negatives=1)
    with pytest.raises(ValueError, match="one or two logits, found 3"):
        score_candidates(data, save_reranker(tmp_path / "three", 3), "cpu")
    with pytest.raises(ValueError, match="expected a cross-encoder"):
        score_candidates(data, tiny_encoders.save_bare(tmp_path / "bare"), "cpu")
