"""The first token's state is what the whole last layer gives; nothing else is computed."""

import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import tiny_encoders
import tiny_rag
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DPRContextEncoder, DPRQuestionEncoder

from rag_finetune.encoders.dpr import encoder_of
from rag_finetune.encoders.first_token import first_token_alone
from rag_finetune.encoders.pooled import PooledEncoder, PooledEncoderConfig

IDS = torch.tensor([[5, 9, 7, 8, 6], [5, 12, 11, 10, 6], [5, 20, 6, 0, 0]])
QUICK = ["bert", "roberta", "xlm-roberta"]  # families of such a layer
WHOLE = sorted(set(tiny_encoders.FAMILIES) - set(QUICK))


def dpr(model_class=DPRContextEncoder, projection_dim: int = 0):
    config = tiny_rag.dpr_config()
    config.projection_dim = projection_dim
    model = model_class(config).eval()
    tiny_rag.spread(model, 0.3)
    return model


def pooled(family: str, pooling: str) -> PooledEncoder:
    inner = tiny_encoders.network(family)
    config = PooledEncoderConfig(
        inner=inner.config.to_dict(),
        pad_token_id=inner.config.pad_token_id,
        pooling=pooling,
        normalize=True,
    )
    return PooledEncoder(config, inner).eval()


def run(model, ids=IDS) -> torch.Tensor:
    """Vectors of three texts, the last of which is padded."""
    mask = (ids != 0).long()
    ids = torch.where(mask.bool(), ids, model.config.pad_token_id)
    with torch.inference_mode():
        return model(ids, attention_mask=mask)[0]


def both(model) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Vectors whole and quick, and the share of the arithmetic that the quick ones took."""
    with FlopCounterMode(display=False) as whole:
        expected = run(model)
    with FlopCounterMode(display=False) as quick, first_token_alone(model):
        found = run(model)
    return expected, found, quick.get_total_flops() / whole.get_total_flops()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("projection_dim", [0, 8])
@pytest.mark.parametrize("model_class", [DPRQuestionEncoder, DPRContextEncoder])
def test_a_dpr_model_gives_the_same_vectors_for_less(model_class, projection_dim, attention):
    model = dpr(model_class, projection_dim)
    model.set_attn_implementation(attention)
    expected, found, share = both(model)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert expected.std(dim=0).min() > 0.01  # the texts are told apart
    assert share < 0.8  # two layers here: of the second, keys and values are left


@pytest.mark.parametrize("family", QUICK)
def test_so_does_a_pooled_encoder_that_takes_the_first_token(family):
    expected, found, share = both(pooled(family, "cls"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert share < 0.8


@pytest.mark.parametrize(
    ("family", "pooling"), [("bert", "mean"), *((family, "cls") for family in WHOLE)]
)
def test_where_other_states_are_read_or_the_layer_is_another_nothing_changes(family, pooling):
    expected, found, share = both(pooled(family, pooling))
    assert torch.equal(found, expected)
    assert share == 1


def test_texts_of_one_length_have_no_mask_and_the_same_vectors():
    model = dpr()
    masks = []
    first = encoder_of(model).bert_model.encoder.layer[0]
    first.register_forward_pre_hook(lambda _, args: masks.append(args[1]))
    with first_token_alone(model):
        found = run(model, IDS[:2])
    assert masks == [None]
    torch.testing.assert_close(found, run(model)[:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_under_bfloat16_it_is_as_near_as_bfloat16_is(attention):
    model = dpr()
    model.set_attn_implementation(attention)
    expected = run(model)
    with torch.autocast("cpu", torch.bfloat16), first_token_alone(model):
        found = run(model)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_the_network_is_whole_again_also_after_an_error():
    model = dpr()
    expected = run(model)
    with pytest.raises(KeyboardInterrupt), first_token_alone(model):
        raise KeyboardInterrupt
    assert torch.equal(run(model), expected)
    states = encoder_of(model).bert_model(IDS)[0]
    assert states.shape == (3, 5, 16)


def test_a_layer_with_a_forward_of_its_own_keeps_it():
    model = dpr()
    layer = encoder_of(model).bert_model.encoder.layer[-1]
    calls, own = [], layer.forward
    layer.forward = lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs)
    with first_token_alone(model):
        run(model)
    assert calls == [1]
    assert "forward" in vars(layer)


def test_threads_that_share_a_network_get_what_each_asks_for():
    model = dpr()
    expected, network = run(model), encoder_of(model).bert_model
    with first_token_alone(model):
        alone = run(model)

    def short(_):
        with first_token_alone(model):
            return torch.equal(run(model), alone)

    def whole(_):
        with torch.inference_mode():
            return network(IDS)[0].shape == (3, 5, 16) and torch.equal(run(model), expected)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            tasks = [threads.submit(short if n % 2 else whole, n) for n in range(400)]
            assert all(task.result() for task in tasks)
    finally:
        sys.setswitchinterval(interval)
    assert "forward" not in vars(network.encoder.layer[-1])


def test_a_copy_made_meanwhile_has_weights_of_its_own():
    model = dpr()
    with first_token_alone(model):
        copied = deepcopy(model)
    tiny_rag.spread(model, 0.5)
    expected = run(copied)
    with first_token_alone(copied):
        torch.testing.assert_close(run(copied), expected, rtol=1e-5, atol=1e-6)
