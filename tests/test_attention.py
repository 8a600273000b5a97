"""What a decoder attends to, against Transformers' own eager attention."""

import csv
import json
import math

import pytest
import tiny_rag
import torch
from conftest import ROOT
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
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
    live = torch.tensor([[True, True, True], [True, False, True]])
    found = passage_attention(generator, states, mask, ids, counted, live)
    mask.view(B, K, LENGTH)[1, 1] = 0
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
        expected = []
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
            expected.append(total / max(count, 1))
        mean = sum(expected) / int(live[b].sum())
        assert found[b].tolist() == pytest.approx([one / mean for one in expected], rel=1e-4)


@torch.no_grad()
def test_where_a_generator_that_reads_looks_is_told_at_the_usual_temperature():
    """`adist` of the starter: not all passages alike, and the gold one most often first."""
    folder = str(ROOT / "data" / "starter" / "generator")
    generator = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(folder)
    with (ROOT / "data" / "elements" / "passages.tsv").open(encoding="utf-8") as file:
        passages = list(csv.DictReader(file, delimiter="\t"))
    rows = {passage["id"]: row for row, passage in enumerate(passages)}
    asked = json.loads((ROOT / "data" / "elements" / "test.json").read_text(encoding="utf-8"))
    first = 0
    for question in asked[:: len(asked) // 8][:8]:
        gold = rows[question["positive_ids"][0]]
        places = [gold, *((gold + 20 + 40 * number) % len(passages) for number in range(9))]
        read = [passages[row] for row in places]
        texts = [f"{p['title']} / {p['text']} // {question['question']}" for p in read]
        batch = words(texts, padding=True, return_tensors="pt")
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        states = generator.get_encoder()(**inputs).last_hidden_state
        answer = words(question["answers"][0])["input_ids"]
        start = torch.tensor([[generator.config.decoder_start_token_id, *answer[:-1]]])
        every = torch.ones_like(start, dtype=torch.bool)
        given = generator, states, inputs["attention_mask"], start, every
        attention = passage_attention(*given, torch.ones(1, 10, dtype=torch.bool))
        shares = attention.softmax(-1)
        entropy = -(shares * shares.log()).sum() / math.log(len(texts))
        assert entropy < 0.6, question["question"]
        first += int(attention.argmax() == 0)
    assert first >= 7


def test_a_generator_whose_attention_is_hidden_is_refused(generator):
    require_watchable(generator)
    generator.get_decoder()._supports_sdpa = False
    with pytest.raises(ValueError, match=r"adist cannot see the attention of \w+.*Use lsr, pdist"):
        require_watchable(generator)
