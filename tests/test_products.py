"""Attention by matrix products: equal to torch's, and only where it is asked for."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from rag_finetune.encoders import products
from rag_finetune.encoders.products import ProductAttention, attend


def drawn(dtype=torch.float32, length=7, other=9):
    torch.manual_seed(0)
    shapes = ((2, 3, length, 8), (2, 3, other, 8), (2, 3, other, 5))
    return [torch.randn(shape).to(dtype) for shape in shapes]


MASKS = {
    "none": None,
    "bool": torch.arange(9) < torch.tensor([[[[6]]], [[[9]]]]),
    "added": torch.linspace(-3, 0, 9).expand(2, 1, 7, 9),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_it_is_torchs_attention(name, scale):
    tensors, mask = drawn(), MASKS[name]
    expected = scaled_dot_product_attention(*tensors, attn_mask=mask, scale=scale)
    torch.testing.assert_close(attend(*tensors, mask, scale), expected)


@pytest.mark.parametrize("name", MASKS)
def test_in_bfloat16_it_is_as_near_to_float32_as_torchs_is(name):
    mask = MASKS[name]
    exact = scaled_dot_product_attention(*drawn(), attn_mask=mask)
    half = mask.bfloat16() if name == "added" else mask
    with torch.no_grad():
        torchs = scaled_dot_product_attention(*drawn(torch.bfloat16), attn_mask=half)
        with ProductAttention():
            ours = scaled_dot_product_attention(*drawn(torch.bfloat16), attn_mask=half)
    assert ours.dtype == torch.bfloat16
    allowed = 1.5 * float((torchs.float() - exact).abs().max()) + 0.01
    assert float((ours.float() - exact).abs().max()) <= allowed


def calls(monkeypatch, tensors, **options):
    """How often our attention is asked within the mode."""
    seen = []
    monkeypatch.setattr(
        products, "attend", lambda *args, **kwargs: seen.append(1) or attend(*args, **kwargs)
    )
    with ProductAttention():
        scaled_dot_product_attention(*tensors, **options)
    return len(seen)


def test_it_stands_in_for_bfloat16_without_gradient_alone(monkeypatch):
    with torch.no_grad():
        assert calls(monkeypatch, drawn(torch.bfloat16)) == 1
        assert calls(monkeypatch, drawn()) == 0
        with torch.autocast("cpu", torch.bfloat16):
            assert calls(monkeypatch, drawn()) == 1
        assert calls(monkeypatch, drawn(torch.bfloat16), is_causal=True) == 0
        assert calls(monkeypatch, drawn(torch.bfloat16), is_causal=False, dropout_p=0.0) == 1
    assert calls(monkeypatch, drawn(torch.bfloat16)) == 0
    assert scaled_dot_product_attention(*drawn(torch.bfloat16)).shape == (2, 3, 7, 5)
