"""Likelihoods of answers behind their prompts are those of one row at a time, unpadded."""

import pytest
import tiny_causal
import torch

from rag_finetune.rag.generation import retrieve, tokenize_questions
from rag_finetune.rag.packing import require_packing
from rag_finetune.rag.scoring import Contexts

QUESTIONS = ["what is the house of ada ?", "where lives ben ?"]
ANSWERS = ["red", "old blue oslo"]


def asked(rag, n_docs=3, questions=QUESTIONS, answers=ANSWERS):
    """Prompts of the questions, and labels of the answers."""
    tokens = tokenize_questions(rag, questions, 64)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    found = retrieve(rag.model, rag.retriever, ids, mask, n_docs=n_docs, questions=questions)
    rows = rag.retriever.writer.answers(rag.tokenizer.generator, answers)
    labels = torch.full((len(rows), max(map(len, rows))), -100)
    for target, row in zip(labels, rows, strict=True):
        target[: len(row)] = torch.tensor(row)
    return found.contexts, labels


@torch.no_grad()
def one_by_one(rag, contexts: Contexts, labels) -> torch.Tensor:
    """Log-probabilities in float64 of every token, a row of its own each, shape (B, P, T)."""
    generator = rag.model.generator.double()
    prompts = len(contexts.input_ids) // len(labels)
    found = torch.zeros(len(labels), prompts, labels.shape[1], dtype=torch.float64)
    for row in range(len(labels)):
        for place in range(prompts):
            at = row * prompts + place
            ids = contexts.input_ids[at][contexts.attention_mask[at].bool()].tolist()
            for step, token in enumerate(labels[row].tolist()):
                if token == -100:
                    break
                logits = generator(input_ids=torch.tensor([ids])).logits[0, -1]
                found[row, place, step] = logits.log_softmax(-1)[token]
                ids.append(token)
    generator.float()
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("reading", ["ensemble", "joined"])
@pytest.mark.parametrize("packing", [False, True])
def test_log_probs_are_those_of_one_unpadded_row_at_a_time(tmp_path, kind, reading, packing):
    rag = tiny_causal.tiny_causal(tmp_path, kind, reading, padding=kind != "gpt2")
    contexts, labels = asked(rag)
    if packing:
        rag.model.packing = require_packing(rag.model.generator)
        for at, mask in enumerate(contexts.attention_mask):
            mask[: -(5 + 20 * (at % 2))] = 0  # so that two have room in a row
    assert len(contexts.input_ids) == {"ensemble": 6, "joined": 2}[reading]
    assert len(set(contexts.attention_mask.sum(-1).tolist())) > 1  # some are padded
    with torch.no_grad():
        found = rag.model.token_log_probs(contexts, labels)
    assert found.double() == pytest.approx(one_by_one(rag, contexts, labels), abs=1e-5)
    rag.model.double()
    with torch.no_grad():
        exact = rag.model.token_log_probs(contexts, labels)
    assert exact == pytest.approx(one_by_one(rag, contexts, labels), abs=1e-9)


def test_only_the_places_of_answers_reach_the_output_layer(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    contexts, labels = asked(rag)
    with torch.no_grad():
        logits = rag.model.answer_logits(contexts, labels)
    assert logits.shape == (3 * int((labels != -100).sum()), len(rag.tokenizer.generator))


def test_a_forward_pass_retrieves_and_its_scores_teach_the_question_encoder(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    contexts, labels = asked(rag)
    tokens = tokenize_questions(rag, QUESTIONS, 64)
    output = rag.model(labels, **tokens, questions=QUESTIONS, n_docs=3)
    assert output.doc_scores.detach() == pytest.approx(contexts.doc_scores, abs=1e-5)
    output.doc_scores[:, 0].sum().backward()
    grads = [p.grad for p in rag.model.question_encoder.parameters() if p.grad is not None]
    assert any(grad.abs().sum() > 0 for grad in grads)
