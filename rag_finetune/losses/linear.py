"""Log-probabilities of targets straight from hidden states: output layer and softmax in one.

The logits of all targets, shape (R, V), are the largest tensor of a training step. They are
computed here a chunk of rows at a time, and again in the backward pass.

Source:
    Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models", arXiv:2411.09009.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

VALUES_PER_CHUNK = 2**24  # logits that are held at once


def linear_log_probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    with_mean: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target under softmax(hidden · weightᵀ + bias).

    Equal to `target_log_probs` and `vocabulary_log_probs` of those logits. The product is taken in
    the type of `hidden`, whatever autocast says, the softmax in float32 at least.

    Args:
        hidden: what the output layer reads, shape (R, width).
        weight: of the output layer, shape (V, width).
        bias: of the output layer, shape (V,); None for none.
        targets: token ids, shape (R,).
        with_mean: give the mean over the vocabulary too, which label smoothing needs.

    Returns:
        log p(target) in nats, shape (R,), and (1/V) Σ_v log p(v), shape (R,), or None. Gradients
        reach hidden, weight and bias, once: second derivatives are refused.
    """
    chosen, mean = _LinearLogProbs.apply(hidden, weight, bias, targets, with_mean)
    return chosen, mean


class _LinearLogProbs(torch.autograd.Function):
    """The output layer, its softmax and the choice of the target."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        with_mean: bool,
    ) -> tuple[Tensor, Tensor | None]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        chosen = hidden.new_empty(len(hidden), dtype=wide)
        log_sums = torch.empty_like(chosen)
        mean = torch.empty_like(chosen) if with_mean else None
        kept: Tensor | None = None
        with torch.autocast(hidden.device.type, enabled=False):
            layer = _Layer(weight, bias, hidden.dtype)
            for rows in _chunks(len(hidden), len(weight)):
                narrow = layer.logits(hidden[rows])
                logits = narrow.to(wide)  # (chunk, V)
                log_sums[rows] = logits.logsumexp(-1)
                chosen[rows] = logits.gather(-1, targets[rows].unsqueeze(-1)).squeeze(-1)
                if mean is not None:
                    mean[rows] = logits.mean(-1)
                kept = narrow if kept is None else kept  # the first chunk's serve twice
                del narrow, logits  # before the next are made
        ctx.save_for_backward(hidden, weight, bias, targets, log_sums, kept)
        ctx.wide = wide
        return chosen - log_sums, None if mean is None else mean - log_sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_chosen: Tensor, grad_mean: Tensor | None) -> tuple:
        hidden, weight, bias, targets, log_sums, kept = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        total = grad_chosen if grad_mean is None else grad_chosen + grad_mean
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = grad_bias = None
        with torch.autocast(hidden.device.type, enabled=False):
            layer = _Layer(weight, bias, hidden.dtype)
            for number, rows in enumerate(_chunks(len(hidden), len(weight))):
                logits = kept if number == 0 else layer.logits(hidden[rows])
                # The gradient of log p(target) is one_hot(target) − softmax, of the mean 1/V − it.
                grad = logits.to(ctx.wide).sub(log_sums[rows].unsqueeze(-1)).exp_()
                del logits
                grad.mul_(-total[rows].unsqueeze(-1))
                if grad_mean is not None:
                    grad.add_(grad_mean[rows].unsqueeze(-1) / len(weight))
                places = targets[rows].unsqueeze(-1)
                grad.scatter_add_(-1, places, grad_chosen[rows].unsqueeze(-1))
                if needs_bias:
                    part = grad.sum(0)
                    grad_bias = part if grad_bias is None else grad_bias.add_(part)
                grad = grad.to(hidden.dtype)
                if grad_hidden is not None:
                    torch.mm(grad, layer.weight, out=grad_hidden[rows])
                if needs_weight:
                    grad_weight = _add_product(grad_weight, grad, hidden[rows], weight.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None


class _Layer:
    """The output layer in the type of what it reads."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight = weight.to(dtype)  # (V, width)
        self.bias = None if bias is None else bias.to(dtype)  # (V,)

    def logits(self, hidden: Tensor) -> Tensor:
        """Unnormalised scores, shape (rows, V)."""
        return torch.nn.functional.linear(hidden, self.weight, self.bias)


def _chunks(count: int, words: int) -> list[slice]:
    """Rows that are worked on together; one chunk where there is none."""
    size = max(1, VALUES_PER_CHUNK // words)
    return [slice(start, start + size) for start in range(0, max(count, 1), size)]


def _add_product(total: Tensor | None, grad: Tensor, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """A sum of gradients of the weight with a further chunk's, in the type of the weight."""
    if total is None:
        return torch.mm(grad.t(), hidden).to(dtype)
    if total.dtype == grad.dtype:
        return total.addmm_(grad.t(), hidden)
    return total.add_(torch.mm(grad.t(), hidden))
