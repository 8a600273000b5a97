import math

import numpy as np
import pytest
import tiny_encoders
import tiny_rag
import torch

from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.index.build import build_index
from rag_finetune.metrics.health import FLAT
from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.rag.flatness import passage_entropy, pseudo_questions

QUESTIONS = [fact["question"] for fact in tiny_rag.facts()]


def assembled(folder, scale, n_docs=5):
    source = tiny_encoders.save_sentence_folder(folder / "encoder")
    generator = tiny_rag.save_parts(folder / "parts")["generator"]
    index = build_index(tiny_rag.passages(), load_context_encoder(source), folder / "index")
    options = {"index": index, "n_docs": n_docs, "max_combined_length": 40, "scale": scale}
    return load_rag(assemble_rag(source, generator, folder / "assembled", **options))


def test_the_entropy_is_that_of_the_softmax_of_the_scores(tmp_path):
    rag = assembled(tmp_path, scale=20.0)
    tokens = rag.tokenizer.question_encoder(QUESTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        vectors = rag.model.question_encoder(**tokens)[0]
    passages = torch.tensor(np.array(rag.retriever.index.passages["embeddings"], np.float32))
    best = (vectors @ passages.T).topk(5).values.double()
    posterior = best.softmax(dim=1)
    expected = (-(posterior * posterior.log()).sum(dim=1) / math.log(5)).mean().item()
    assert passage_entropy(rag, QUESTIONS) == pytest.approx(expected, abs=1e-5)
    assert not rag.model.training


def test_without_a_scale_normalised_vectors_are_flat_and_a_scale_sharpens_them(tmp_path):
    found = [
        passage_entropy(assembled(tmp_path / str(scale), scale), QUESTIONS)
        for scale in (1.0, 20.0, 2000.0)
    ]
    assert 1 >= found[0] > found[1] > found[2] > 0
    assert found[0] > FLAT > found[2]


def test_there_is_no_entropy_of_one_passage(tmp_path):
    assert passage_entropy(assembled(tmp_path, 20.0, n_docs=1), QUESTIONS) is None


def test_first_sentences_stand_in_for_questions(tmp_path):
    rows = [
        {"text": "The sea is deep. Fish live there.", "title": "Sea"},
        {"text": "雪很白。雪很冷。", "title": ""},
        {"text": "no end of sentence", "title": ""},
    ]
    passages = tiny_rag.passages().select(range(3)).to_list()
    data = type(tiny_rag.passages()).from_list(
        [old | new for old, new in zip(passages, rows, strict=True)]
    )
    index = build_index(data, tiny_rag.context_encoder(), tmp_path / "index")
    assert pseudo_questions(index) == ["The sea is deep.", "雪很白。", "no end of sentence"]
