"""The loss is that of the answer's tokens, as brute force has it; prompts have no part in it."""

import pytest
import tiny_causal
import torch
from test_causal_model import asked, one_by_one

from rag_finetune.rag.causal_targets import CausalTargetLosses


def losses(rag, contexts, labels, **options):
    output = rag.model(
        labels,
        context_input_ids=contexts.input_ids,
        context_attention_mask=contexts.attention_mask,
        doc_scores=contexts.doc_scores,
    )
    return CausalTargetLosses(rag.model).of(output.logits, labels, output.doc_scores, **options)


def doubled(rag):
    contexts, labels = asked(rag)
    rag.model.double()
    contexts.doc_scores = contexts.doc_scores.double() * 3  # p(z|x) that is not flat
    return contexts, labels


def test_an_ensemble_has_the_marginal_likelihood(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    contexts, labels = doubled(rag)
    found = losses(rag, contexts, labels)
    each = one_by_one(rag, contexts, labels).sum(-1)
    rag.model.double()
    for row in range(2):
        weights = contexts.doc_scores[row].softmax(-1)
        likelihood = sum(
            float(w) * float(torch.exp(p)) for w, p in zip(weights, each[row], strict=True)
        )
        assert found[row].item() == pytest.approx(-torch.tensor(likelihood).log().item(), abs=1e-6)


def test_a_joined_prompt_has_its_own_likelihood_whatever_the_scores(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path, reading="joined")
    contexts, labels = doubled(rag)
    found = losses(rag, contexts, labels)
    assert found.tolist() == pytest.approx(
        (-one_by_one(rag, contexts, labels)[:, 0].sum(-1)).tolist(), abs=1e-6
    )


def test_the_end_of_an_answer_counts(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path, padding=False)  # its end is what pads, too
    contexts, labels = doubled(rag)
    assert labels[0, 1] == rag.tokenizer.generator.eos_token_id
    without = labels.clone()
    without[0, 1] = -100
    whole = losses(rag, contexts, labels).tolist()
    less = losses(rag, contexts, without).tolist()
    assert whole[0] > less[0] + 0.01 and whole[1] == pytest.approx(less[1])


def test_gradients_are_those_of_finite_differences(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path, "gpt2")  # Llama's norms compute in float32
    contexts, labels = doubled(rag)
    contexts.doc_scores = contexts.doc_scores.detach().requires_grad_()
    weight = rag.model.generator.transformer.h[0].mlp.c_proj.weight
    losses(rag, contexts, labels).sum().backward()
    for tensor, place in ((weight, (3, 5)), (contexts.doc_scores, (1, 2))):
        expected = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                tensor[place] += step
                expected.append(losses(rag, contexts, labels).sum().item())
                tensor[place] -= step
        assert tensor.grad[place].item() == pytest.approx(
            (expected[0] - expected[1]) / 2e-5, rel=1e-5, abs=1e-8
        )


def test_the_other_losses_are_those_of_rag(tmp_path):
    """Smoothing, the passages' own losses and doubt, by hand from all log-probabilities."""
    rag = tiny_causal.tiny_causal(tmp_path)
    contexts, labels = doubled(rag)
    plain = losses(rag, contexts, labels)
    prior = contexts.doc_scores.softmax(-1)
    each = one_by_one(rag, contexts, labels).sum(-1)
    rag.model.double()
    found = losses(rag, contexts, labels, passage_loss_weight=0.25)
    expected = 0.75 * plain - 0.25 * (prior * each).sum(-1)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    logits = rag.model.answer_logits(contexts, labels).log_softmax(-1).mean(-1)
    counted = (labels != -100).unsqueeze(1).expand(-1, 3, -1)
    means = torch.zeros(counted.shape, dtype=torch.float64).masked_scatter(counted, logits)
    smoothing = -(prior.unsqueeze(-1) * means).sum(1).sum(-1) / (labels != -100).sum(-1)
    found = losses(rag, contexts, labels, label_smoothing=0.1)
    assert found.tolist() == pytest.approx((0.9 * plain + 0.1 * smoothing).tolist(), abs=1e-6)
