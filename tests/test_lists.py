"""Ranking losses against loops over passages, and values worked by hand."""

import math

import pytest
import torch

from rag_finetune.losses.contrastive import contrastive_losses
from rag_finetune.losses.lists import gold_losses, listwise_losses


def random_lists(seed=0, questions=6, passages=5):
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(questions, passages, generator=draw, dtype=torch.float64) * 2
    marks = torch.rand(2, questions, passages, generator=draw) < 0.4
    return scores, marks[0], marks[1]


@pytest.mark.parametrize("seed", range(3))
def test_the_gold_loss_equals_a_loop(seed):
    scores, is_gold, excluded = random_lists(seed)
    is_gold[2] = False
    found = gold_losses(scores, is_gold, excluded)
    for row in range(len(scores)):
        gold = whole = 0.0
        for score, is_one, is_out in zip(
            scores[row].tolist(), is_gold[row].tolist(), excluded[row].tolist(), strict=True
        ):
            gold += math.exp(score) if is_one else 0.0
            whole += math.exp(score) if is_one or not is_out else 0.0
        expected = -math.log(gold / whole) if gold else 0.0
        assert found[row].item() == pytest.approx(expected, abs=1e-9)


def test_with_one_gold_passage_it_is_the_contrastive_loss():
    scores, _, excluded = random_lists()
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    is_gold = torch.nn.functional.one_hot(targets, 5).bool()
    expected = contrastive_losses(scores, targets, excluded)
    torch.testing.assert_close(gold_losses(scores, is_gold, excluded), expected)


def test_gradients_are_those_of_finite_differences():
    scores, is_gold, excluded = random_lists(1)
    counted = torch.rand(6, 5, generator=torch.Generator().manual_seed(9)) < 0.8
    is_gold[0] = False
    relevance = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: gold_losses(s, is_gold, excluded), scores)
    assert torch.autograd.gradcheck(lambda s: listwise_losses(s, relevance, counted), scores)
    listwise_losses(scores, relevance, counted).sum().backward()
    assert relevance.grad is None
    assert (scores.grad[~counted] == 0).all() and torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_a_list_equals_a_loop(seed):
    scores, counted, _ = random_lists(seed)
    draw = torch.Generator().manual_seed(seed)
    relevance = torch.randn(6, 5, generator=draw)
    found = listwise_losses(scores.masked_fill(~counted, -math.inf), relevance, counted)
    for row in range(len(scores)):
        left = [k for k in range(5) if counted[row, k]]
        expected = 0.0
        while left:
            best = max(left, key=lambda k: relevance[row, k].item())
            shares = sum(math.exp(scores[row, k].item()) for k in left)
            expected -= scores[row, best].item() - math.log(shares)
            left.remove(best)
        assert found[row].item() == pytest.approx(expected, abs=1e-9)


def test_an_order_worked_by_hand():
    # The right order is 2, 0, 1. Each place: 4 of 4 + 1 + 3, then 1 of 1 + 3, then alone.
    scores = torch.tensor([[1.0, 3.0, 4.0]]).log()
    found = listwise_losses(scores, torch.tensor([[-2.0, -3.0, -1.0]]), torch.ones(1, 3).bool())
    assert found.item() == pytest.approx(-math.log(4 / 8) - math.log(1 / 4), rel=1e-6)


def test_fewer_than_two_passages_and_no_gold_teach_nothing():
    scores = torch.tensor([[2.0, 1.0]], requires_grad=True)
    none = torch.zeros(1, 2, dtype=torch.bool)
    loss = listwise_losses(scores, torch.zeros(1, 2), torch.tensor([[True, False]]))
    loss = loss + gold_losses(scores, none, none)
    loss.sum().backward()
    assert loss.item() == 0.0 and torch.equal(scores.grad, torch.zeros(1, 2))


def test_half_precision_is_taken_in_float32():
    scores, is_gold, excluded = random_lists()
    for found in (
        gold_losses(scores.bfloat16() * 100, is_gold, excluded),
        listwise_losses(scores.bfloat16() * 100, scores.bfloat16(), is_gold),
    ):
        assert found.dtype == torch.float32 and torch.isfinite(found).all()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"one shape, found \[\(2, 3\), \(2, 3\), \(2, 2\)\]"):
        listwise_losses(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 2).bool())
