"""What a decoder attends to, against Transformers' own eager attention."""

import pytest
import tiny_rag
import torch
from transformers.modeling_outputs import BaseModelOutput

from rag_finetune.rag.attention import passage_attention, require_watchable

B, K, LENGTH, T = 2, 3, 6, 4


@pytest.fixture(params=["bart", "t5"])
def generator(request):
    torch.manual_seed(0)
    made = tiny_rag.generator(request.param)
    tiny_rag.spread(made, 0.5)
    return made.train()


def batch(generator):
    draw = torch.Generator().manual_seed(1)
    lengths = torch.tensor([6, 4, 2, 5, 6, 3]).unsqueeze(1)
    mask = torch.arange(LENGTH) < lengths  # (B·K, length)
    states = torch.randn(B * K, LENGTH, 16, generator=draw)
    ids = torch.randint(5, 40, (B, T), generator=draw)
    counted = torch.tensor([[True, True, True, True], [True, True, False, False]])
    return states, mask.long(), ids, counted


def values_of(generator, layer, states):
    decoder = generator.get_decoder()
    if hasattr(decoder, "layers"):
        return decoder.layers[layer].encoder_attn.v_proj(states)
    return decoder.block[layer].layer[1].EncDecAttention.v(states)


def test_it_equals_a_loop_over_eager_attention(generator):
    states, mask, ids, counted = batch(generator)
    found = passage_attention(generator, states, mask, ids, counted)
    assert generator.training and generator.get_decoder().config._attn_implementation != "eager"
    generator.eval().set_attn_implementation("eager")
    for b in range(B):
        rows = slice(b * K, (b + 1) * K)
        joint, read = states[rows].reshape(1, -1, 16), mask[rows].reshape(1, -1)
        with torch.no_grad():
            weights = generator(
                encoder_outputs=BaseModelOutput(last_hidden_state=joint),
                attention_mask=read,
                decoder_input_ids=ids[b : b + 1],
                output_attentions=True,
                use_cache=False,
            ).cross_attentions
            values = [values_of(generator, n, joint)[0] for n in range(len(weights))]
        for k in range(K):
            total, count = 0.0, 0
            for layer, shares in enumerate(weights):
                for head in range(shares.shape[1]):
                    for t in range(int(counted[b].sum())):
                        for n in range(k * LENGTH, (k + 1) * LENGTH):
                            if not read[0, n]:
                                continue
                            value = values[layer][n].view(shares.shape[1], -1)[head]
                            total += (shares[0, head, t, n] * value.norm()).item()
                            count += 1
            assert found[b, k].item() == pytest.approx(total / count, rel=1e-4)


def test_a_generator_whose_attention_is_hidden_is_refused(generator):
    require_watchable(generator)
    generator.get_decoder()._supports_sdpa = False
    with pytest.raises(ValueError, match=r"adist cannot see the attention of \w+.*Use lsr, pdist"):
        require_watchable(generator)
