import pytest
import tiny_encoders
import tiny_rag
import torch
from transformers import DPRContextEncoder, DPRQuestionEncoder

from rag_finetune.encoders.dpr import dpr_from_bert, encoder_of, scale_vectors
from rag_finetune.encoders.pooled import PooledEncoder, PooledEncoderConfig

IDS = torch.tensor([[2, 9, 7, 8, 3], [2, 20, 3, 0, 0]])
ROLES = pytest.mark.parametrize("model_class", [DPRQuestionEncoder, DPRContextEncoder])


@ROLES
def test_a_bert_as_dpr_model_gives_its_first_states_to_the_bit(model_class, tmp_path):
    bert = tiny_encoders.bert(layer_norm_eps=1e-5, hidden_act="relu", type_vocab_size=3)
    expected = bert(IDS, attention_mask=(IDS != 0).long())[0][:, 0]
    model = dpr_from_bert(bert, model_class, 0).eval()
    assert torch.equal(model(IDS)[0], expected)  # the mask is read off the padding
    model.save_pretrained(tmp_path)
    assert torch.equal(model_class.from_pretrained(tmp_path)(IDS)[0], expected)


@ROLES
@pytest.mark.parametrize("projection_dim", [0, 8])
def test_a_scale_multiplies_the_vectors_of_a_dpr_model(model_class, projection_dim, tmp_path):
    config = tiny_rag.dpr_config()
    config.projection_dim = projection_dim
    model = model_class(config).eval()
    tiny_rag.spread(model, 0.3)
    torch.nn.init.normal_(encoder_of(model).bert_model.encoder.layer[-1].output.LayerNorm.bias)
    before = model(IDS)[0]
    scale_vectors(model, 4.0)  # a power of two: exact to the bit
    assert torch.equal(model(IDS)[0], 4 * before)
    scale_vectors(model, 0.75)
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    assert torch.allclose(loaded(IDS)[0], 3 * before, rtol=1e-6, atol=1e-6)


def test_a_scale_takes_the_place_of_the_one_that_a_pooled_encoder_has():
    inner = tiny_encoders.bert()
    config = PooledEncoderConfig(inner=inner.config.to_dict(), scale=7.0)
    model = PooledEncoder(config, inner).eval()
    before = model(IDS)[0] / 7
    scale_vectors(model, 2.0)
    assert torch.allclose(model(IDS)[0], 2 * before, rtol=1e-6)
    assert model.config.scale == 2.0


@pytest.mark.parametrize("scale", [0.0, -2.0, float("nan")])
def test_a_scale_that_is_not_above_0_is_refused(scale):
    model = DPRQuestionEncoder(tiny_rag.dpr_config())
    with pytest.raises(ValueError, match="scale must be a number above 0"):
        scale_vectors(model, scale)
