"""Attention in bfloat16 on processors, by matrix products that they have units for."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

UNKNOWN = {"dropout_p": 0.0, "is_causal": False, "enable_gqa": False}  # anything else is torch's


class ProductAttention(TorchFunctionMode):
    """Within it, attention in bfloat16 on a processor is two products and a softmax.

    torch 2.13 computes it there without the processor's units for bfloat16: in encoders of the
    size of BERT-base it took 2.0 to 2.5 times as long as this, which holds the weights of all heads
    at once. Everything else is left to torch.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or what stands in for it."""
        given = dict(kwargs or {})
        if func is scaled_dot_product_attention and _is_known(args, given):
            return attend(*args[:3], *args[3:4], **_named(given))
        return func(*args, **given)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax( query · keyᵀ · scale + mask ) · value, as `scaled_dot_product_attention` has it.

    Args:
        query: shape (…, L, d).
        key: shape (…, S, d).
        value: shape (…, S, e).
        attn_mask: True where a query may look, or what is added; broadcasts to (…, L, S).
        scale: 1/√d where it is None.

    Returns:
        Shape (…, L, e), in the type of the query.
    """
    weights = torch.matmul(query, key.transpose(-1, -2))
    weights = weights.mul_(query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        weights = weights.masked_fill_(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        weights = weights.add_(attn_mask)
    return torch.matmul(torch.softmax(weights, -1), value)


def _is_known(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is attention in bfloat16 on a processor, without gradient or specialities."""
    if not 3 <= len(args) <= 4 or args[0].device.type != "cpu" or torch.is_grad_enabled():
        return False
    is_half = args[0].dtype == torch.bfloat16 or (
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )
    return is_half and all(kwargs.get(name, value) == value for name, value in UNKNOWN.items())


def _named(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that `attend` takes."""
    return {name: value for name, value in kwargs.items() if name not in UNKNOWN}
