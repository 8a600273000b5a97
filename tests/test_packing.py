"""Packed sequences: each in one place, read as if it stood alone, tried before they are used."""

import pytest
import tiny_causal
import tiny_rag
import torch
from tiny_causal import train_causal
from tiny_training import logged, weights
from transformers import BloomConfig, BloomForCausalLM

from rag_finetune.rag.packing import by_positions, first_fit, lay_out, require_packing


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([7], [[0]]),
        ([4, 4, 4], [[0], [1], [2]]),
        ([3, 10, 7, 6, 4], [[1], [2, 0], [3, 4]]),
        ([1, 1, 5, 1, 1, 1], [[2], [0, 1, 3, 4, 5]]),
    ],
)
def test_the_longest_goes_first_into_the_first_row_with_room(lengths, rows):
    assert first_fit(lengths) == rows


def test_every_sequence_stands_once_and_its_positions_begin_anew():
    sequences = [torch.arange(1, length + 1) for length in (3, 6, 2, 1, 5)]
    layout = lay_out(sequences, by_positions)
    ids, positions = layout.inputs["input_ids"], layout.inputs["position_ids"]
    assert layout.inputs.keys() == {"input_ids", "position_ids"}
    assert ids.shape == (3, 6)
    for start, sequence in zip(layout.starts, sequences, strict=True):
        assert ids.flatten()[start : start + len(sequence)].tolist() == sequence.tolist()
        assert positions.flatten()[start : start + len(sequence)].tolist() == [
            *range(len(sequence))
        ]
    assert int((ids > 0).sum()) == 3 + 6 + 2 + 1 + 5


def test_padded_sequences_have_a_row_each():
    layout = lay_out([torch.tensor([4, 5]), torch.tensor([6, 7, 8])])
    assert layout.inputs["input_ids"].tolist() == [[4, 5, 0], [6, 7, 8]]
    assert layout.inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert layout.starts == [0, 3]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_models_that_tell_sequences_apart_are_taken(kind, attention):
    torch.manual_seed(0)
    generator = tiny_causal.network(kind)
    tiny_rag.spread(generator, 0.3)
    generator.set_attn_implementation(attention)
    generator.train()
    assert require_packing(generator) is by_positions
    assert generator.training


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_models_that_take_a_mask_are_given_one(attention):
    """OPT reads the positions, and makes a mask without looking at them."""
    torch.manual_seed(0)
    generator = tiny_causal.network("opt")
    tiny_rag.spread(generator, 0.3)
    generator.set_attn_implementation(attention)
    packing = require_packing(generator)
    assert packing is not by_positions
    mask = packing({"position_ids": torch.tensor([[0, 1, 0]])})["attention_mask"]
    sees = mask if mask.dtype is torch.bool else mask == 0
    assert sees.tolist() == [[[[True, False, False], [True, True, False], [False, False, True]]]]


def test_a_mask_is_not_put_in_the_place_of_a_window():
    generator = tiny_causal.network("opt")
    tiny_rag.spread(generator, 0.3)
    generator.config.sliding_window = 64
    with pytest.raises(ValueError, match="OPTForCausalLM does not keep packed sequences apart"):
        require_packing(generator)


def test_models_whose_positions_come_from_the_mask_are_refused():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50}
    generator = BloomForCausalLM(BloomConfig(**sizes))
    tiny_rag.spread(generator, 0.3)
    with pytest.raises(ValueError, match="CausalLM does not keep packed sequences apart"):
        require_packing(generator)


def test_an_attention_without_a_mask_for_it_is_refused():
    generator = tiny_causal.network()
    generator.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="needs the attention sdpa or eager, found flash_attenti"):
        require_packing(generator)


def shortened(rag):
    """Let the prompts of a model end as they do and be of many lengths; their rows are noted."""
    writer, rows = rag.retriever.writer, []
    write = writer.write

    def write_short(*args):
        return [ids[-(4 + 5 * (at % 4)) :] for at, ids in enumerate(write(*args))]

    def note(module, args, given):
        rows.append(given["input_ids"].shape[0])

    writer.write = write_short
    rag.model.generator.register_forward_pre_hook(note, with_kwargs=True)
    return rows


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("reading", ["ensemble", "joined"])
def test_packed_training_is_padded_training_in_fewer_rows(tmp_path, kind, reading):
    found = []
    for packing in (False, True):
        folder = tmp_path / str(packing)
        rag = tiny_causal.tiny_causal(folder, kind, reading)
        rows, options = shortened(rag), {"optim": "sgd", "learning_rate": 0.1}
        trainer = train_causal(folder, rag, packing=packing, **options)
        found.append((logged(trainer, "loss"), weights(rag.model.generator), rows[-2:]))
    (losses, padded, rows), (same_losses, packed, fewer) = found
    assert same_losses == pytest.approx(losses, rel=1e-5)
    for name, weight in padded.items():
        assert torch.allclose(packed[name], weight, atol=1e-5), name
    assert rows == ([12, 12] if reading == "ensemble" else [4, 4])
    assert max(fewer) < min(rows)
