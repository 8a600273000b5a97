import subprocess
import sys

import pytest
import tiny_encoders
import torch
from transformers import AutoConfig, AutoModel

from rag_finetune.encoders.pooled import PooledEncoder, PooledEncoderConfig, pool, register

IDS = torch.tensor([[5, 9, 7, 8, 6], [5, 12, 11, 10, 6], [5, 20, 6, 0, 0]])


def pooled(family: str = "bert", **options) -> PooledEncoder:
    inner = tiny_encoders.network(family)
    config = PooledEncoderConfig(
        inner=inner.config.to_dict(), pad_token_id=inner.config.pad_token_id, **options
    )
    return PooledEncoder(config, inner).eval()


def ids_for(model: PooledEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    """Three texts, the last one padded with the family's own padding; and their mask."""
    mask = (IDS != 0).long()
    return torch.where(mask.bool(), IDS, model.config.pad_token_id), mask


# ---- Pooling ----


def test_the_mean_leaves_padding_out_and_cls_takes_the_first_token():
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool(hidden, mask, "mean").tolist() == [[2.0, 4.0]]
    assert pool(hidden, mask, "cls").tolist() == [[1.0, 2.0]]


def test_what_stands_in_padding_does_not_matter_even_when_it_is_not_a_number():
    hidden = torch.tensor([[[1.0], [3.0], [float("nan")]], [[1.0], [1.0], [1.0]]])
    assert pool(hidden, torch.tensor([[1, 1, 0], [0, 0, 0]]), "mean").tolist() == [[2.0], [0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_mean_of_many_large_states_holds_in_half_precision(dtype):
    hidden = torch.full((1, 512, 1), 1000.0).to(dtype)  # their sum is more than float16 holds
    hidden[0, 0] = 0
    found = pool(hidden, torch.ones(1, 512), "mean")
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(1000 * 511 / 512, rel=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pool(hidden, torch.ones(1, 512), "mean").item() == found.item()


def test_normalised_vectors_have_the_length_of_the_scale():
    for scale in (1.0, 20.0):
        vectors = pooled(normalize=True, scale=scale)(IDS).pooler_output
        assert vectors.norm(dim=1).tolist() == pytest.approx([scale] * 3, rel=1e-6)
    plain, scaled = pooled(scale=1.0)(IDS)[0], pooled(scale=4.0)(IDS)[0]
    assert torch.equal(scaled, 4 * plain)


# ---- The families ----


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", tiny_encoders.FAMILIES)
def test_vectors_are_those_of_the_network_pooled_by_hand(family, pooling):
    model = pooled(family, pooling=pooling)
    ids, mask = ids_for(model)
    found = model(ids, attention_mask=mask)[0]
    for row, length in enumerate([5, 5, 3]):
        with torch.no_grad():
            states = model.inner(input_ids=ids[row : row + 1, :length])[0][0]
        expected = states[0] if pooling == "cls" else states.mean(dim=0)
        assert torch.allclose(found[row], expected, atol=1e-5)
    assert found[0].isfinite().all() and (found[0] - found[1]).abs().max() > 0.01


@pytest.mark.parametrize("family", tiny_encoders.FAMILIES)
def test_without_a_mask_padding_tells_it(family):
    model = pooled(family, normalize=True)
    ids, mask = ids_for(model)
    assert torch.equal(model(ids)[0], model(ids, attention_mask=mask)[0])


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", tiny_encoders.FAMILIES)
def test_every_parameter_gets_a_gradient(family, pooling):
    model = pooled(family, pooling=pooling, normalize=True).train()
    model.requires_grad_(True)  # as a trainer does that knows of no pooler
    ids, mask = ids_for(model)
    types = torch.zeros_like(ids)  # a tokenizer may bring them where the network knows none
    (model(ids, mask, types)[0] ** 3).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("family", tiny_encoders.FAMILIES)
def test_saved_and_loaded_it_gives_the_same_bits(family, tmp_path):
    register()
    model = pooled(family, pooling="mean", normalize=True, scale=3.0)
    ids, _ = ids_for(model)
    model.save_pretrained(tmp_path)
    for loaded in (PooledEncoder.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is PooledEncoder
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert torch.equal(loaded(ids)[0], model(ids)[0])
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.inner.model_type, config.scale, config.hidden_size) == (family, 3.0, 16)


# ---- What a RAG model asks of it ----


def test_the_vector_comes_first_whatever_return_dict_says():
    model = pooled()
    for option in (None, True, False):
        outputs = model(IDS, return_dict=option)
        assert torch.equal(outputs[0], outputs.pooler_output)
    inner = model.inner
    inner.set_attn_implementation("eager")
    outputs = model(IDS, output_hidden_states=True, output_attentions=True)
    assert (len(outputs.hidden_states), len(outputs.attentions)) == (3, 2)


def test_embeddings_can_be_given_in_place_of_ids():
    model = pooled()
    embeddings = model.get_input_embeddings()(IDS[:2])
    found = model(inputs_embeds=embeddings)[0]
    assert torch.allclose(found, model(IDS[:2])[0], atol=1e-6)
    with pytest.raises(ValueError, match="needs input_ids or inputs_embeds"):
        model()


def test_half_precision_weights_give_float32_vectors():
    vectors = pooled(normalize=True).to(torch.bfloat16)(IDS)[0]
    assert vectors.dtype == torch.float32
    assert vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 3, rel=1e-6)


def test_recomputing_activations_leaves_the_gradient_as_it_is():
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = pooled(normalize=True).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            assert model.is_gradient_checkpointing
        (model(IDS)[0] ** 3).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*gradients, atol=1e-6)


def test_the_network_given_keeps_its_weights():
    inner = tiny_encoders.network("bert")
    before = {name: tensor.clone() for name, tensor in inner.state_dict().items()}
    model = PooledEncoder(PooledEncoderConfig(inner=inner.config.to_dict()), inner)
    after = model.inner.state_dict()
    assert {name for name in before if not name.startswith("pooler.")} == set(after)
    assert all(torch.equal(after[name], before[name]) for name in after)


# ---- The configuration ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, 'pooling must be cls or mean, found "max"'),
        ({"scale": 0.0}, "scale must be a number above 0, found 0.0"),
        ({"scale": -1.0}, "scale must be a number above 0, found -1.0"),
        ({"scale": float("inf")}, "scale must be a number above 0, found inf"),
        ({"scale": float("nan")}, "scale must be a number above 0, found nan"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PooledEncoderConfig(**options)


def test_the_configuration_of_a_configuration_is_the_same():
    config = pooled("roberta", pooling="cls", scale=2.0, max_position_embeddings=64).config
    again = PooledEncoderConfig(**config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert (again.hidden_size, again.projection_dim, again.pad_token_id) == (16, 0, 1)


PLAIN = """
import sys, torch
from transformers import AutoModel
try:
    AutoModel.from_pretrained(sys.argv[1])
except (KeyError, ValueError) as error:
    print("pooled_encoder" in str(error))
import rag_finetune
rag_finetune.register()
rag_finetune.register()
torch.set_num_threads(1)
print(AutoModel.from_pretrained(sys.argv[1])(torch.tensor([[5, 9, 6]]))[0].double().sum().item())
"""


def test_plain_transformers_loads_it_once_it_is_registered(tmp_path):
    model = pooled(normalize=True, scale=5.0)
    model.save_pretrained(tmp_path)
    words = [sys.executable, "-c", PLAIN, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    is_unknown, found = done.stdout.splitlines()
    assert is_unknown == "True"
    expected = model(torch.tensor([[5, 9, 6]]))[0].double().sum().item()
    assert float(found) == pytest.approx(expected, rel=1e-6)
