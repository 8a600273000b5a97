"""The doubt of passages, by values worked out by hand."""

import math

import torch

from rag_finetune.losses.doubt import passage_doubt
from rag_finetune.losses.likelihood import target_log_probs, vocabulary_log_probs


def doubt_of(probabilities: list, targets: list[int], live=(True, True)) -> torch.Tensor:
    """Of one question with two passages, each with a distribution a step."""
    logits = torch.tensor([probabilities], dtype=torch.float64).log()  # (1, 2, T, V)
    answer = torch.tensor([[targets] * 2])
    mask = answer[:, 0] >= 0
    chosen = target_log_probs(logits, answer.clamp(min=0))
    return passage_doubt(
        chosen, vocabulary_log_probs(logits), mask, torch.tensor([live]), logits.shape[-1]
    )


def test_a_passage_that_explains_less_is_as_far_from_uniform_as_it_is_worse():
    peaked, told = [0.5, 0.25, 0.125, 0.125], [0.1, 0.1, 0.4, 0.4]
    doubt = doubt_of([[told], [peaked]], [2])
    share = 1 - 0.125 / 0.4
    distance = sum(0.25 * math.log(0.25 / p) for p in peaked)
    torch.testing.assert_close(doubt, torch.tensor([[0.0, share * distance]], dtype=torch.float64))


def test_passages_that_explain_alike_are_both_left_alone():
    steps = [[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]]
    assert doubt_of([steps, steps], [0, 1]).tolist() == [[0.0, 0.0]]


def test_the_share_is_a_geometric_mean_over_the_tokens():
    told = [[0.8, 0.1, 0.05, 0.05]] * 2
    half = [[0.2, 0.6, 0.1, 0.1]] * 2  # a quarter of the likelihood at each of two tokens
    distance = 2 * sum(0.25 * math.log(0.25 / p) for p in half[0])
    expected = torch.tensor([[0.0, 0.75 * distance]], dtype=torch.float64)
    torch.testing.assert_close(doubt_of([told, half], [0, 0]), expected)


def test_padding_and_missing_passages_count_nothing():
    told, other = [[0.8, 0.1, 0.05, 0.05]] * 2, [[0.1, 0.7, 0.1, 0.1]] * 2
    short = doubt_of([told[:1], other[:1]], [0])
    torch.testing.assert_close(doubt_of([told, other], [0, -1]), short)
    assert doubt_of([told, other], [0, 0], live=(False, True)).tolist() == [[0.0, 0.0]]


def test_a_uniform_passage_has_no_doubt():
    told, uniform = [[0.8, 0.1, 0.05, 0.05]], [[0.25] * 4]
    assert abs(doubt_of([told, uniform], [0])[0, 1].item()) < 1e-12
