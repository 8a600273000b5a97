"""The losses of retriever training, held against values worked out by hand."""

import math

import pytest
import torch

from rag_finetune.losses.contrastive import (
    contrastive_losses,
    distillation_losses,
    reverse_losses,
)

SCORES = torch.tensor([[1.0, 2.0, 0.0], [0.5, 1.5, -1.0]])
NOTHING = torch.zeros(2, 3, dtype=torch.bool)


def log_share(values, chosen):
    return -math.log(math.exp(chosen) / sum(map(math.exp, values)))


def test_a_positive_competes_with_all_passages_of_the_batch():
    found = contrastive_losses(SCORES, torch.tensor([1, 0]), NOTHING)
    expected = [log_share([1.0, 2.0, 0.0], 2.0), log_share([0.5, 1.5, -1.0], 0.5)]
    assert found.tolist() == pytest.approx(expected)


def test_what_is_excluded_gets_no_gradient_and_counts_for_nothing():
    scores = SCORES.clone().requires_grad_()
    excluded = torch.tensor([[True, False, False], [False, False, True]])
    found = contrastive_losses(scores, torch.tensor([1, 0]), excluded)
    assert found.tolist() == pytest.approx([log_share([2.0, 0.0], 2.0), log_share([0.5, 1.5], 0.5)])
    found.sum().backward()
    assert (scores.grad == 0).tolist() == excluded.tolist()


def test_the_positive_counts_even_where_it_is_marked():
    marked = torch.tensor([[False, True, False], [True, False, False]])
    targets = torch.tensor([1, 0])
    found = contrastive_losses(SCORES, targets, marked)
    assert torch.equal(found, contrastive_losses(SCORES, targets, NOTHING))


def test_it_is_the_cross_entropy_of_torch_where_nothing_is_excluded():
    scores = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(6)
    found = contrastive_losses(scores, targets, torch.zeros(6, 9, dtype=torch.bool))
    expected = torch.nn.functional.cross_entropy(scores, targets, reduction="none")
    assert torch.allclose(found, expected, atol=1e-6)


def test_half_precision_scores_are_taken_in_float32():
    found = contrastive_losses(SCORES.bfloat16() * 1e4, torch.tensor([1, 0]), NOTHING)
    assert found.dtype == torch.float32 and torch.isfinite(found).all()


def test_the_other_direction_takes_the_questions_as_candidates():
    found = reverse_losses(SCORES, torch.tensor([1, 0]), NOTHING, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([log_share([2.0, 1.5], 2.0), log_share([1.0, 0.5], 0.5)])
    one = reverse_losses(SCORES, torch.tensor([1, 0]), NOTHING, torch.tensor([1]))
    assert one.tolist() == pytest.approx(found[1:].tolist())


def test_questions_on_the_same_passage_do_not_compete_for_it():
    found = reverse_losses(SCORES, torch.tensor([1, 1]), NOTHING, torch.tensor([0, 1]))
    assert found.tolist() == [0.0, 0.0]


def test_distillation_is_the_divergence_from_the_teacher():
    teacher = torch.tensor([[math.log(3.0), 0.0, 99.0]])
    student = torch.tensor([[0.0, 0.0, -99.0]])
    counted = torch.tensor([[True, True, False]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert distillation_losses(student, teacher, counted).tolist() == pytest.approx([expected])
    same = distillation_losses(teacher + 5.0, teacher, counted)
    assert same.tolist() == pytest.approx([0.0], abs=1e-6)


def test_distillation_of_fewer_than_two_candidates_is_nothing_and_moves_nothing():
    scores = torch.randn(2, 3, requires_grad=True)
    counted = torch.tensor([[True, False, False], [False, False, False]])
    found = distillation_losses(scores, torch.randn(2, 3), counted)
    assert found.tolist() == [0.0, 0.0]
    found.sum().backward()
    assert not scores.grad.any()


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"excluded of the same shape.*\(2, 2\)"):
        contrastive_losses(SCORES, torch.tensor([1, 0]), NOTHING[:, :2])
    with pytest.raises(ValueError, match="must have one shape"):
        distillation_losses(SCORES, SCORES[:1], NOTHING)


@pytest.mark.parametrize("loss", ["contrastive", "reverse", "distillation"])
def test_gradients_are_those_of_finite_differences(loss):
    draw = torch.Generator().manual_seed(3)
    scores = torch.randn(3, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 5, generator=draw, dtype=torch.float64)
    excluded = torch.zeros(3, 5, dtype=torch.bool)
    excluded[0, 3] = excluded[1, 4] = True
    targets, rows = torch.tensor([0, 1, 2]), torch.arange(3)
    of = {
        "contrastive": lambda values: contrastive_losses(values, targets, excluded),
        "reverse": lambda values: reverse_losses(values, targets, excluded, rows),
        "distillation": lambda values: distillation_losses(values, teacher, ~excluded),
    }
    assert torch.autograd.gradcheck(of[loss], scores, atol=1e-7)
