"""Two networks, or one twice."""

import pytest
import tiny_encoders
import tiny_retriever
import torch

from rag_finetune.encoders.load import load_context_encoder, load_question_encoder
from rag_finetune.training.biencoder import BiEncoder, context_of, tie


def test_tied_encoders_are_one_network_whose_weights_stand_once():
    question, context = tiny_retriever.encoders(tied=True)
    model = BiEncoder(question.model, None, recompute=False)
    assert (question.encode(["ada"]) == context.encode(["ada"])).all()
    assert list(model.parts) == ["question_encoder"]
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert (question.encode(["ada"]) == context.encode(["ada"])).all()


def test_a_pooled_encoder_is_tied_to_itself(tmp_path):
    folder = tiny_encoders.save_sentence_folder(tmp_path / "encoder")
    question, context = load_question_encoder(folder), load_context_encoder(folder)
    tie(question, context)
    assert context.model is question.model


def test_a_dpr_question_encoder_alone_reads_passages_too():
    question, _ = tiny_retriever.encoders()
    context = context_of(question, 32)
    assert context.max_length == 32
    assert (question.encode(["the house"]) == context.encode(["the house"])).all()


def test_encoders_of_two_kinds_cannot_be_tied(tmp_path):
    question, _ = tiny_retriever.encoders()
    context = load_context_encoder(tiny_encoders.save_sentence_folder(tmp_path / "encoder"))
    with pytest.raises(ValueError, match="cannot be one network"):
        tie(question, context)
