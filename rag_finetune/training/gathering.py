"""Rows of all processes as one tensor, through which gradients flow back to their processes."""

from typing import Any

import torch
from torch import Tensor, distributed, nn


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes, in the order of the ranks; their numbers may differ.

    Gradients reach every process's own rows: the sum of what all processes' losses say of them.
    Where each rank takes the loss of its own questions against all passages, the sum of those
    losses therefore has the gradient that one process has with the whole batch. As DDP averages
    gradients over the ranks, each loss is multiplied by their number.

    Args:
        rows: shape (n, …), n may be 0; what follows n is alike on all processes.

    Returns:
        Shape (sum of n, …); the tensor itself on one process.
    """
    if world_size() == 1:
        return rows
    counts = gather_counts(len(rows), rows.device)
    padding = [0, 0] * (rows.ndim - 1) + [0, max(counts) - len(rows)]
    whole = _AllGather.apply(nn.functional.pad(rows, padding))  # (world, most, …)
    return torch.cat([part[:count] for part, count in zip(whole, counts, strict=True)])


def gather_counts(count: int, device: torch.device) -> list[int]:
    """The number that each process gives, by rank."""
    if world_size() == 1:
        return [count]
    own = torch.tensor([count], device=device)
    all_counts = [torch.empty_like(own) for _ in range(world_size())]
    distributed.all_gather(all_counts, own)
    return [int(one) for one in all_counts]


def world_size() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process among them."""
    return distributed.get_rank() if distributed.is_initialized() else 0


class _AllGather(torch.autograd.Function):
    """all_gather of tensors of one shape; the gradient is summed over the processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient[rank()]
