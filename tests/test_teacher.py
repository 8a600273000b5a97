"""A cross-encoder scores the candidates once."""

import pytest
import tiny_rag
import tiny_retriever
import torch
from transformers import BertConfig, BertForSequenceClassification

from rag_finetune.training.teacher import score_candidates


def save_teacher(folder, num_labels=1):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tiny_rag.word_tokenizer("bert")), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=64,
        num_labels=num_labels,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    tiny_rag.spread(model, 0.3)
    model.save_pretrained(folder)
    tiny_rag.word_tokenizer("bert").save_pretrained(folder)
    return model


def test_every_candidate_gets_the_logit_of_its_pair(tmp_path):
    model = save_teacher(tmp_path)
    data = tiny_retriever.examples(4, n_negatives=2)
    score_candidates(data, str(tmp_path), "cpu", max_length=64)
    tokenizer = tiny_rag.word_tokenizer("bert")
    for row in range(4):
        for passage in (*data.positives[row], *data.negatives[row]):
            text = f"{data.passages.titles[passage]} {data.passages.texts[passage]}"
            pair = tokenizer(data.questions[row], text, return_tensors="pt")
            expected = float(model(**pair).logits.detach())
            assert data.teacher_scores[row, passage] == pytest.approx(expected, abs=1e-5)


def test_a_network_of_three_logits_is_no_teacher(tmp_path):
    save_teacher(tmp_path, num_labels=3)
    with pytest.raises(ValueError, match="found 3"):
        score_candidates(tiny_retriever.examples(4, n_negatives=1), str(tmp_path), "cpu")
