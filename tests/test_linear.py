"""The fused output layer against the logits that it does not keep."""

from types import SimpleNamespace

import pytest
import torch

from rag_finetune.losses import linear
from rag_finetune.losses.likelihood import target_log_probs, vocabulary_log_probs
from rag_finetune.losses.linear import linear_log_probs

WORDS, WIDTH = 11, 6
ONE_CHUNK, CHUNKS_OF_TWO, CHUNKS_OF_ONE = 2**24, 2 * WORDS + 1, 1


def case(dtype: torch.dtype, rows: int = 5, with_bias: bool = True, seed: int = 0):
    """Random leaves that want gradients, targets, and what is put on the results."""
    draw = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()

    return SimpleNamespace(
        hidden=leaf(rows, WIDTH),
        weight=leaf(WORDS, WIDTH),
        bias=leaf(WORDS) if with_bias else None,
        targets=torch.randint(0, WORDS, (rows,), generator=draw),
        grads=torch.randn(2, rows, generator=draw, dtype=torch.float64),
    )


def slow(given: SimpleNamespace) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.nn.functional.linear(given.hidden, given.weight, given.bias)
    return target_log_probs(logits, given.targets), vocabulary_log_probs(logits)


def gradients(given: SimpleNamespace, chosen, mean) -> list[torch.Tensor]:
    total = (chosen * given.grads[0]).sum()
    if mean is not None:
        total = total + (mean * given.grads[1]).sum()
    leaves = [leaf for leaf in (given.hidden, given.weight, given.bias) if leaf is not None]
    return list(torch.autograd.grad(total, leaves))


@pytest.mark.parametrize("values", [ONE_CHUNK, CHUNKS_OF_TWO, CHUNKS_OF_ONE])
@pytest.mark.parametrize("with_mean", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_equal_those_through_logits(
    monkeypatch, dtype, with_bias, with_mean, values
):
    monkeypatch.setattr(linear, "VALUES_PER_CHUNK", values)
    given = case(dtype, with_bias=with_bias)
    chosen, mean = linear_log_probs(
        given.hidden, given.weight, given.bias, given.targets, with_mean=with_mean
    )
    expected = slow(given)
    torch.testing.assert_close(chosen, expected[0])
    assert (mean is not None) is with_mean
    if mean is not None:
        torch.testing.assert_close(mean, expected[1])
    wanted = gradients(given, expected[0], expected[1] if with_mean else None)
    for found, grad in zip(gradients(given, chosen, mean), wanted, strict=True):
        torch.testing.assert_close(found, grad)
        assert grad.abs().max() > 0.1


def test_gradients_equal_finite_differences(monkeypatch):
    monkeypatch.setattr(linear, "VALUES_PER_CHUNK", CHUNKS_OF_TWO)
    given = case(torch.float64)

    def call(hidden, weight, bias):
        return linear_log_probs(hidden, weight, bias, given.targets, with_mean=True)

    assert torch.autograd.gradcheck(call, (given.hidden, given.weight, given.bias))


def test_what_does_not_learn_gets_no_gradient():
    given = case(torch.float32)
    for frozen in ("hidden", "weight", "bias"):
        leaves = {n: getattr(given, n).detach() for n in ("hidden", "weight", "bias")}
        for name in set(leaves) - {frozen}:
            leaves[name].requires_grad_()
        linear_log_probs(*leaves.values(), given.targets)[0].sum().backward()
        assert leaves.pop(frozen).grad is None
        assert all(leaf.grad.abs().max() > 0 for leaf in leaves.values())


@pytest.mark.parametrize("values", [ONE_CHUNK, CHUNKS_OF_ONE])
def test_rounded_states_give_float32_values_and_gradients_in_the_types_of_the_leaves(
    monkeypatch, values
):
    monkeypatch.setattr(linear, "VALUES_PER_CHUNK", values)
    given = case(torch.float32)
    expected = slow(given)
    wanted = gradients(given, *expected)
    with torch.autocast("cpu", dtype=torch.float16):  # the type of the states counts, not this
        chosen, mean = linear_log_probs(
            given.hidden.bfloat16(), given.weight, given.bias, given.targets, with_mean=True
        )
    assert chosen.dtype == mean.dtype == torch.float32
    torch.testing.assert_close(chosen, expected[0].detach(), rtol=2e-2, atol=5e-2)
    for found, grad in zip(gradients(given, chosen, mean), wanted, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, grad, rtol=5e-2, atol=5e-2)


def test_float32_states_are_not_rounded_under_autocast():
    given = case(torch.float32)
    expected = slow(given)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chosen, _ = linear_log_probs(given.hidden, given.weight, given.bias, given.targets)
    torch.testing.assert_close(chosen, expected)


def test_a_second_backward_pass_over_a_kept_graph_gives_the_same():
    given = case(torch.float32)
    total = linear_log_probs(given.hidden, given.weight, given.bias, given.targets)[0].sum()
    first = torch.autograd.grad(total, [given.hidden, given.weight], retain_graph=True)
    second = torch.autograd.grad(total, [given.hidden, given.weight])
    assert all(map(torch.equal, first, second))


def test_no_targets_give_no_values_and_zero_gradients():
    given = case(torch.float32, rows=0)
    chosen, mean = linear_log_probs(
        given.hidden, given.weight, given.bias, given.targets, with_mean=True
    )
    assert chosen.shape == mean.shape == (0,)
    assert [g.abs().sum().item() for g in gradients(given, chosen, mean)] == [0, 0, 0]


def test_no_tensor_of_all_logits_is_held(monkeypatch):
    rows, words = 40, 50
    monkeypatch.setattr(linear, "VALUES_PER_CHUNK", 5 * words)
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    hidden = torch.randn(rows, WIDTH, requires_grad=True)
    weight = torch.randn(words, WIDTH, requires_grad=True)
    targets = torch.zeros(rows, dtype=torch.long)
    with Sizes():
        linear_log_probs(hidden, weight, None, targets, with_mean=True)[0].sum().backward()
    assert max(sizes) == weight.numel() > 5 * words
    with Sizes():
        sizes.clear()
        target_log_probs(hidden @ weight.T, targets).sum().backward()
    assert max(sizes) == rows * words  # the reference holds them
