"""Approximate indexes find fewer passages than asked for, or none: probability 0, never a NaN."""

import json
import math

import faiss
import numpy as np
import pytest
import tiny_rag
import torch
from tiny_training import logged, train_tiny

from rag_finetune.evaluation.evaluate import evaluate_rag
from rag_finetune.evaluation.retrieval_only import evaluate_retrieval
from rag_finetune.rag.generation import generate_answers, question_encoder_of, retrieve

QUESTIONS = [fact["question"] for fact in tiny_rag.facts()]


def approximate(rag, lists):
    """Let the index of a model be an IVF of so many lists, one of which is looked into."""
    index = rag.retriever.index
    vectors = np.ascontiguousarray(index.vectors_at(np.arange(len(index))))
    width = vectors.shape[1]
    quantizer = faiss.IndexFlatIP(width)
    quantizer.add(vectors[:lists])
    inverted = faiss.IndexIVFFlat(quantizer, width, lists, faiss.METRIC_INNER_PRODUCT)
    inverted.add(vectors)
    inverted.nprobe = 1
    index._dense = inverted
    return index


def emptied(rag):
    """Let the index of a model find nothing for any question."""
    index = approximate(rag, 2)
    index._dense.reset()
    return index


@pytest.fixture(params=["rag_sequence", "rag_token"])
def rag(request, tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path, model_type=request.param)
    tiny_rag.spread(rag.model.rag.question_encoder, 0.3)
    return rag


def found_by(index, rag):
    vectors = question_encoder_of(rag).encode(QUESTIONS)
    return index.search(vectors, 5)[1]


def test_an_ivf_that_looks_into_one_list_does_miss_passages(rag):
    ids = found_by(approximate(rag, 12), rag)
    assert (ids < 0).any() and (ids >= 0).any()
    assert (found_by(emptied(rag), rag) < 0).all()


@pytest.mark.parametrize("thorough", [True, False])
def test_answers_rest_on_the_passages_that_were_found(rag, thorough):
    ids = found_by(approximate(rag, 12), rag)
    answers = generate_answers(rag, QUESTIONS, num_beams=2, max_new_tokens=4, thorough=thorough)
    for row, (best,) in zip(ids, answers, strict=True):
        found = [str(number + 1) for number in row if number >= 0]
        assert [passage["id"] for passage in best.passages] == found
        assert math.isfinite(best.score)
        if found:
            assert sum(passage["posterior"] for passage in best.passages) == pytest.approx(1.0)


def test_a_question_that_finds_nothing_is_answered_from_itself_without_evidence(rag):
    emptied(rag)
    for (best,) in generate_answers(rag, QUESTIONS, num_beams=2, max_new_tokens=4):
        assert best.passages == []
        assert math.isfinite(best.score)


def test_then_all_weight_lies_on_one_empty_passage(rag):
    emptied(rag)
    tokens = rag.tokenizer.question_encoder(QUESTIONS[:2], padding=True, return_tensors="pt")
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    found = retrieve(rag.model, rag.retriever, ids, mask, n_docs=3)
    assert found.contexts.doc_scores.tolist() == [[0.0, -math.inf, -math.inf]] * 2
    read = rag.tokenizer.generator.batch_decode(found.contexts.input_ids, skip_special_tokens=True)
    assert [text.strip() for text in read[::3]] == [f"/ // {text}" for text in QUESTIONS[:2]]


@pytest.mark.parametrize("lists", [0, 12], ids=["none", "some"])
def test_evaluation_gives_finite_figures_and_says_what_found_nothing(rag, lists):
    index = approximate(rag, lists) if lists else emptied(rag)
    bare = int((found_by(index, rag) < 0).all(axis=1).sum())
    questions = tiny_rag.questions()
    for evaluate in (
        lambda: evaluate_rag(rag, questions, max_new_tokens=4),
        lambda: evaluate_retrieval(question_encoder_of(rag), index, questions),
    ):
        if bare:
            with pytest.warns(UserWarning, match=f"{bare} of 20 questions find no passage at all"):
                evaluation = evaluate()
        else:
            evaluation = evaluate()
        assert all(math.isfinite(value) for value in evaluation.metrics.values())
        json.dumps(evaluation.predictions, allow_nan=False)
    if not lists:
        assert evaluation.metrics["recall@20"] == evaluation.metrics["answer_recall@20"] == 0.0


def test_training_goes_on_over_questions_that_find_nothing(rag, tmp_path):
    approximate(rag, 4)
    search = rag.retriever.index.search

    def sometimes(vectors, k):
        scores, ids = search(vectors, k)
        ids[::2], scores[::2] = -1, -np.inf
        return scores, ids

    rag.retriever.index.search = sometimes
    trainer = train_tiny(tmp_path, rag=rag, eval_questions=tiny_rag.questions(4), max_steps=2)
    assert all(math.isfinite(loss) for loss in logged(trainer, "loss"))
    assert logged(trainer, "grad_norm_question_encoder")[0] > 0
    assert all(torch.isfinite(p).all() for p in rag.model.parameters())
    assert math.isfinite(trainer.evaluate()["eval_loss"])
