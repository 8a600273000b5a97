"""Losses of the retriever against loops over passages and tokens, and values worked by hand."""

import math

import pytest
import torch

from rag_finetune.losses.contrastive import distillation_losses
from rag_finetune.losses.retrieval import (
    adist_losses,
    answer_log_likelihoods,
    emdr2_losses,
    left_out_log_likelihoods,
    loop_losses,
    lsr_losses,
    pdist_losses,
)

GAMMA, TAU = 0.7, 1.9
BOTH = {"retriever_temperature": GAMMA, "lm_temperature": TAU}
LOSSES = {
    "lsr": (lsr_losses, BOTH),
    "lsr reversed": (lsr_losses, {**BOTH, "direction": "lm_retriever"}),
    "pdist": (pdist_losses, BOTH),
    "emdr2": (emdr2_losses, {"retriever_temperature": GAMMA}),
    "adist": (adist_losses, BOTH),
    "loop": (loop_losses, BOTH),
}
EVERY = pytest.mark.parametrize("name", LOSSES)


def batch(seed=0, questions=5, passages=4):
    """Scores and log-likelihoods, in float64; the last question lacks its last passage."""
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(questions, passages, generator=draw, dtype=torch.float64) * 3
    likelihoods = -torch.rand(questions, passages, generator=draw, dtype=torch.float64) * 6
    scores[-1, -1] = -math.inf
    return scores, likelihoods


# ---- Loops: one passage at a time, in Python's float64 ----


def softmax(values):
    top = max(values)
    shares = [math.exp(value - top) for value in values]
    return [share / sum(shares) for share in shares]


def divergence(first, second):
    return sum(p * (math.log(p) - math.log(q)) for p, q in zip(first, second, strict=True))


def by_loop(name, scores, values):
    """The loss of one question, from lists over the passages that it has."""
    retriever = softmax([score / GAMMA for score in scores])
    if name == "emdr2":
        return -math.log(sum(p * math.exp(v) for p, v in zip(retriever, values, strict=True)))
    if name == "loop":
        values = [-left_out_by_loop(values, out) for out in range(len(values))]
    lm = softmax([value / TAU for value in values])
    return divergence(retriever, lm) if name == "lsr" else divergence(lm, retriever)


def left_out_by_loop(values, out):
    total, count = 0.0, 0
    for number, value in enumerate(values):
        if number != out:
            total, count = total + math.exp(value), count + 1
    return math.log(total / count)


@EVERY
@pytest.mark.parametrize("seed", range(3))
def test_each_loss_equals_a_loop_over_the_passages(name, seed):
    scores, likelihoods = batch(seed)
    loss, options = LOSSES[name]
    found = loss(scores, likelihoods, **options)
    for row in range(len(scores)):
        live = [k for k in range(4) if scores[row, k] > -math.inf]
        expected = by_loop(
            name, [scores[row, k].item() for k in live], [likelihoods[row, k].item() for k in live]
        )
        assert found[row].item() == pytest.approx(expected, abs=1e-9)


@EVERY
def test_gradients_are_those_of_finite_differences(name):
    scores, likelihoods = batch(1)
    loss, options = LOSSES[name]
    known = scores > -math.inf

    def of(values):
        whole = torch.full_like(scores, -math.inf).masked_scatter(known, values)
        return loss(whole, likelihoods, **options)

    assert torch.autograd.gradcheck(of, scores[known].requires_grad_(), atol=1e-7)


@EVERY
def test_no_gradient_reaches_the_generator(name):
    scores, likelihoods = batch(2)
    loss, options = LOSSES[name]
    loss(scores.requires_grad_(), likelihoods.requires_grad_(), **options).sum().backward()
    assert likelihoods.grad is None
    assert scores.grad[:-1].abs().min() > 0
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[-1, -1] == 0


@EVERY
def test_one_passage_teaches_nothing(name):
    scores = torch.tensor([[3.0, -math.inf], [1.0, -math.inf]]).requires_grad_()
    loss, options = LOSSES[name]
    found = loss(scores, torch.tensor([[-1.0, 0.0], [-2.0, 5.0]]), **options)
    found.sum().backward()
    assert torch.equal(scores.grad, torch.zeros(2, 2))
    assert found.tolist() == pytest.approx([1.0, 2.0] if name == "emdr2" else [0.0, 0.0])


@EVERY
def test_half_precision_is_taken_in_float32(name):
    scores, likelihoods = batch(3)
    loss, options = LOSSES[name]
    found = loss(scores.bfloat16() * 100, likelihoods.bfloat16() * 100, **options)
    assert found.dtype == torch.float32 and torch.isfinite(found).all()


@EVERY
def test_shapes_and_temperatures_are_checked(name):
    scores, likelihoods = batch(0)
    loss, options = LOSSES[name]
    with pytest.raises(ValueError, match=r"one shape \(B, K\), found \(5, 4\) and \(5, 3\)"):
        loss(scores, likelihoods[:, :3], **options)
    for option in options.keys() - {"direction"}:
        with pytest.raises(ValueError, match=r"must be above 0, found 0\.0"):
            loss(scores, likelihoods, **{**options, option: 0.0})


# ---- By hand ----


def test_directions_worked_by_hand():
    # p_R = (1/2, 1/2), p_LM = (3/4, 1/4)
    scores, likelihoods = torch.tensor([[7.0, 7.0]]), torch.tensor([[math.log(3), 0.0]])
    forward = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)  # 0.1438
    backward = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)  # 0.1308
    assert lsr_losses(scores, likelihoods).item() == pytest.approx(forward, rel=1e-6)
    reverse = lsr_losses(scores, likelihoods, direction="lm_retriever").item()
    assert reverse == pytest.approx(backward, rel=1e-6)
    assert pdist_losses(scores, likelihoods).item() == reverse
    assert (round(forward, 4), round(backward, 4)) == (0.1438, 0.1308)


def test_temperatures_worked_by_hand():
    # γ = 2: p_R = softmax(ln 9 / 2, 0) = (3/4, 1/4)
    # τ = 1/2: p_LM = softmax(2 ln 2, 0) = (4/5, 1/5)
    scores, likelihoods = (
        torch.tensor([[math.log(9), 0.0]]),
        torch.tensor([[math.log(2), 0.0]]),
    )
    found = lsr_losses(scores, likelihoods, retriever_temperature=2.0, lm_temperature=0.5).item()
    expected = 0.75 * math.log(0.75 / 0.8) + 0.25 * math.log(0.25 / 0.2)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_direction_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match='retriever_lm or lm_retriever, found "forward"'):
        lsr_losses(torch.zeros(1, 2), torch.zeros(1, 2), direction="forward")


def test_emdr2_pulls_towards_the_posterior():
    scores, likelihoods = batch(4)
    emdr2_losses(scores.requires_grad_(), likelihoods).sum().backward()
    prior = torch.softmax(scores.detach(), 1)
    posterior = torch.softmax(scores.detach() + likelihoods, 1)
    torch.testing.assert_close(scores.grad, prior - posterior)


def test_what_is_left_out_worked_by_hand():
    log_likelihoods = torch.tensor([[0.5, 0.2, 0.1]]).log()
    live = torch.ones(1, 3, dtype=torch.bool)
    found = left_out_log_likelihoods(log_likelihoods, live).exp()
    torch.testing.assert_close(found, torch.tensor([[0.15, 0.3, 0.35]]))
    two = left_out_log_likelihoods(log_likelihoods, torch.tensor([[True, True, False]])).exp()
    torch.testing.assert_close(two[0, :2], torch.tensor([0.2, 0.5]))


def test_the_passage_that_is_missed_most_is_wanted_most():
    scores = torch.zeros(1, 3, requires_grad=True)
    loop_losses(scores, torch.tensor([[-0.1, -5.0, -6.0]])).sum().backward()
    assert scores.grad[0].argmin() == 0 and scores.grad[0, 0] < 0


def test_pdist_is_the_distillation_of_a_teacher():
    scores, likelihoods = batch(5)
    counted = scores > -math.inf
    expected = distillation_losses(scores, likelihoods, counted)
    torch.testing.assert_close(pdist_losses(scores, likelihoods), expected)


@pytest.mark.parametrize("per_token", [False, True])
def test_likelihoods_of_answers_equal_a_loop_over_the_tokens(per_token):
    draw = torch.Generator().manual_seed(0)
    tokens = -torch.rand(2, 3, 4, generator=draw, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    found = answer_log_likelihoods(tokens.requires_grad_(), mask, per_token)
    assert not found.requires_grad
    for b in range(2):
        for k in range(3):
            counted = [tokens[b, k, t].item() for t in range(4) if mask[b, t]]
            expected = sum(counted) / (len(counted) if per_token else 1)
            assert found[b, k].item() == pytest.approx(expected, abs=1e-12)
